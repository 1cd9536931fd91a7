"""The timeouts of a run, and the limits of its execution's history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from aws_cdk import Duration

from horovod_node import contract

MOST_EVENTS = 25_000
"""Most events of an execution, at which Step Functions ends it ("Service quotas" in its guide)."""
EVENTS_OF_THE_QUEUE = 9_500
"""Events for the queue. The rest is for `STARTS` starts, an hour of polls of terminating nodes, receipt and retries."""
EVENTS_OF_AN_ENGINE = 2_400
"""
Events that every further engine takes from the queue's: each step then begins with a choice, and a run may leave a
fleet for one of another engine. A test counts them.
"""
_EVENTS_OF_A_LOOK = 9
"""Events of one poll: a task makes 5, a choice and a wait 2 each."""
_EVENTS_OF_A_FLEET = 8
"""Events of one failed attempt to reserve a fleet."""

STARTS = 28
"""
How often a run may request nodes, in all attempts of its plan and all restarts together.

Each start makes up to 340 events if its nodes take ten minutes to terminate, so an execution's history has room for no
more. A test counts them.
"""
LOOKS = 60
"""How often a run looks for nodes that are on the way; then it looks when their time is over. A test counts them."""
REPEATS = 1
"""How often an attempt is repeated after throttling, or when the provider could not be asked."""
_EMPTYING = Duration.minutes(5)
"""Time for the nodes of one attempt to terminate before the next begins."""


@dataclass(frozen=True, kw_only=True)
class RunTimeouts:
    """
    How long each part of a run may take.

    Args:
        max_runtime: Longest training of a run, and the most that a request may ask for. Default: 24 hours.
        queue_timeout: Longest wait for a fleet. Default: 24 hours.
        launch_timeout: Time from the start of nodes until the first node has joined. Default: 15 minutes.
        start_timeout:
            Time from the start of nodes, or from the end of an attempt's own time limit (see `CapacityPlan`), until the
            ring has formed. Default: 30 minutes.
        save_timeout: Longest packing and upload of the model. Default: 1 hour.
        heartbeat: Time without a heartbeat after which the leader counts as lost. Default: 60 seconds.
        first_step_timeout:
            Time from the start of the ranks until the first training step, for loading data and compiling.
            Default: 30 minutes.
        stall_timeout: Longest time between two training steps. Default: 10 minutes.
        lease_timeout:
            How long a run keeps its fleet after its leader's last renewal of the lease, and how long a node runs
            without a valid lease before it terminates itself. Default: 10 minutes.
        elastic_timeout: How long an elastic ring with fewer than `min_gpus` GPUs waits for nodes. Default: 10 minutes.
        poll_interval:
            Pause between two polls of terminating nodes, and shortest pause between two polls of the queue. With the
            default `queue_timeout` a queued run polls every 155 seconds. Default: 15 seconds.

    Raises:
        ValueError: If two timeouts contradict each other, or one is not in whole seconds of at least 1.
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
        How long a lease is valid that a state machine has taken or renewed.

        Until the first node is up nobody renews it; from then on the leader does.
        """
        return Duration.seconds(self.launch_timeout.to_seconds() + self.lease_timeout.to_seconds())

    def forming(self, time_limits: Sequence[int | None]) -> Duration:
        """
        Return the longest time for a ring to form, if every attempt uses all of its time.

        Args:
            time_limits: Time limits of the attempts of a fleet's plan, in seconds; None for `start_timeout`.
        """
        start = int(self.start_timeout.to_seconds())
        seconds = [limit or start for limit in time_limits]
        # One attempt may be repeated; nodes that came in time get start_timeout for the ring.
        most = sum(seconds) + REPEATS * max(seconds) + start
        return Duration.seconds(most + (len(seconds) - 1) * int(_EMPTYING.to_seconds()))

    @property
    def without_training(self) -> Duration:
        """Longest time of a run without queue, forming of rings, and training."""
        return Duration.seconds(self.save_timeout.to_seconds() + self.hold.to_seconds())

    def queue_interval(self, *, fleets: int, engines: int = 1) -> Duration:
        """
        Return the pause between two polls of the queue for *fleets* fleets of *engines* engines.

        It is at least the poll interval, and long enough for the polls within the queue timeout to fit into an
        execution's history.
        """
        events = EVENTS_OF_THE_QUEUE - (engines - 1) * EVENTS_OF_AN_ENGINE
        looks = events // (_EVENTS_OF_A_LOOK + _EVENTS_OF_A_FLEET * fleets)
        needed = math.ceil(self.queue_timeout.to_seconds() / looks)
        return Duration.seconds(max(needed, int(self.poll_interval.to_seconds())))

    def execution_timeout(self, *, forming: int, engines: int = 1) -> Duration:
        """
        Return the timeout of the execution: all timeouts above, with the most restarts, and an hour for terminating.

        It is only a last resort, because Step Functions runs no Catch when it is reached.

        Args:
            forming: Most seconds for a ring to form.
            engines: From how many engines a run may get nodes, one after the other.
        """
        parts = (self.queue_timeout, self.max_runtime, self.without_training, Duration.hours(1))
        return Duration.seconds(sum(part.to_seconds() for part in parts) + (contract.MOST_RESTARTS + engines) * forming)
