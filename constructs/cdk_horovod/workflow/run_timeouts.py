"""The times that bound a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from aws_cdk import Duration

from horovod_node import contract

MOST_EVENTS = 25_000
"""Of one execution, which Step Functions ends then ("Service quotas" in its guide)."""
EVENTS_OF_THE_QUEUE = 9_500
"""The rest is for the run itself: `STARTS` starts, an hour of looks at nodes that go away, its receipt, and retries."""
_EVENTS_OF_A_LOOK = 9
"""A task makes 5, a choice and a wait 2 each."""
_EVENTS_OF_A_FLEET = 8
"""Trying to take it, in vain, and going on."""

STARTS = 32
"""
How often a run asks for nodes, all attempts of its plan and all restarts together.

Each is up to 330 events if its nodes take ten minutes to go; with them an execution's history has room for no more. A
test counts them.
"""
REPEATS = 1
"""How often an attempt is repeated about which EC2 only said that it was asked too often."""
_EMPTYING = Duration.minutes(5)
"""For the nodes of one attempt to go before the next begins."""


@dataclass(frozen=True, kw_only=True)
class RunTimeouts:
    """
    How long each part of a run may take.

    Args:
        max_runtime: Longest training of a run, and the most that a request may ask for. Default: 24 hours.
        queue_timeout: Longest wait for a fleet. Default: 24 hours.
        launch_timeout: The first node must be there this long after the start. Default: 15 minutes.
        start_timeout:
            The whole ring must be ready this long after the start of nodes, or after an attempt's own time limit (see
            `CapacityPlan`). Default: 30 minutes.
        save_timeout: Longest packing and upload of the model. Default: 1 hour.
        heartbeat: A silent leader is given up after this time. Default: 60 seconds.
        first_step_timeout:
            The first training step must come this long after the ranks started: the time for reading data into
            memory and compiling. Default: 30 minutes.
        stall_timeout: Every later step must come this long after the one before. Default: 10 minutes.
        lease_timeout:
            How long a fleet stays a run's after its leader's last sign of life, and how long a node stays without a
            valid lease before it takes itself out. Default: 10 minutes.
        elastic_timeout:
            How long an elastic ring that has fewer than its `min_gpus` GPUs waits for others. Default: 10 minutes.
        poll_interval:
            Pause between two looks at nodes that go away, and the shortest one in the queue. With the default queue
            timeout a waiting run looks every 155 seconds. Default: 15 seconds.

    Raises:
        ValueError: If two of them contradict each other, or one is not in whole seconds of at least 1.
    """

    max_runtime: Duration = field(default_factory=lambda: Duration.hours(24))
    queue_timeout: Duration = field(default_factory=lambda: Duration.hours(24))
    launch_timeout: Duration = field(default_factory=lambda: Duration.minutes(15))
    start_timeout: Duration = field(default_factory=lambda: Duration.minutes(30))
    save_timeout: Duration = field(default_factory=lambda: Duration.hours(1))
    heartbeat: Duration = field(default_factory=lambda: Duration.seconds(60))
    first_step_timeout: Duration = field(default_factory=lambda: Duration.minutes(30))
    stall_timeout: Duration = field(default_factory=lambda: Duration.minutes(10))
    lease_timeout: Duration = field(default_factory=lambda: Duration.minutes(10))
    elastic_timeout: Duration = field(default_factory=lambda: Duration.minutes(10))
    poll_interval: Duration = field(default_factory=lambda: Duration.seconds(15))

    def __post_init__(self) -> None:
        for each in fields(self):
            value: Duration = getattr(self, each.name)
            if value.to_seconds(integral=False) < 1 or value.to_seconds(integral=False) % 1:
                raise ValueError(f"'{each.name}' must be whole seconds and at least 1, got {value.to_human_string()}")
        for shorter, longer in (
            ("heartbeat", "max_runtime"),
            ("heartbeat", "save_timeout"),
            ("heartbeat", "lease_timeout"),
            ("launch_timeout", "start_timeout"),
        ):
            short, long = getattr(self, shorter), getattr(self, longer)
            if short.to_seconds() >= long.to_seconds():
                raise ValueError(
                    f"'{shorter}' must be shorter than '{longer}' ({long.to_human_string()}), "
                    f"got {short.to_human_string()}"
                )

    @property
    def hold(self) -> Duration:
        """
        How long a lease holds that was taken or renewed by a state machine.

        Until the first node is up nobody else renews it; from then on its leader does.
        """
        return Duration.seconds(self.launch_timeout.to_seconds() + self.lease_timeout.to_seconds())

    def forming(self, time_limits: Sequence[int | None]) -> Duration:
        """
        How long a ring may take to form, once, if every attempt takes all of its time.

        Args:
            time_limits: Of the attempts of a fleet's plan, in seconds; None for `start_timeout`.
        """
        start = int(self.start_timeout.to_seconds())
        seconds = [limit or start for limit in time_limits]
        # One attempt is repeated when EC2 throttles; nodes that came in time have start_timeout for the ring.
        most = sum(seconds) + REPEATS * max(seconds) + start
        return Duration.seconds(most + (len(seconds) - 1) * int(_EMPTYING.to_seconds()))

    @property
    def without_training(self) -> Duration:
        """What a run may take beside queue, rings that form, and training."""
        return Duration.seconds(self.save_timeout.to_seconds() + self.hold.to_seconds())

    def queue_interval(self, *, fleets: int) -> Duration:
        """
        Pause between two looks at a queue for one of *fleets* fleets.

        At least the poll interval, and long enough for the queue timeout to fit into an execution's history: Step
        Functions ends an execution at 25,000 events (its guide, "Service quotas").
        """
        looks = EVENTS_OF_THE_QUEUE // (_EVENTS_OF_A_LOOK + _EVENTS_OF_A_FLEET * fleets)
        needed = math.ceil(self.queue_timeout.to_seconds() / looks)
        return Duration.seconds(max(needed, int(self.poll_interval.to_seconds())))

    def execution_timeout(self, *, forming: int) -> Duration:
        """
        Bound of the whole execution: everything above, as many restarts as a request may ask for, and an hour for
        terminating.

        It is a last resort only: Step Functions runs no Catch when it strikes.

        Args:
            forming: Seconds that a ring may take to form.
        """
        parts = (self.queue_timeout, self.max_runtime, self.without_training, Duration.hours(1))
        return Duration.seconds(sum(part.to_seconds() for part in parts) + (contract.MOST_RESTARTS + 1) * forming)
