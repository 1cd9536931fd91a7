"""The times that bound a run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from aws_cdk import Duration


@dataclass(frozen=True, kw_only=True)
class RunLimits:
    """
    How long each part of a run may take.

    Args:
        max_runtime: Longest training, and the most that a request may ask for.
        queue_timeout: Longest wait for the fleet.
        launch_timeout: The first node must be there this long after the start; then its agent sends heartbeats.
        start_timeout: The whole ring must be ready this long after the start.
        save_timeout: Longest packing and upload of the model.
        heartbeat: The leader is given up after this long without a heartbeat.
        first_step_timeout: The first training step must come this long after the ranks started.
        stall_timeout: Every later step must come this long after the one before.
        poll_interval: Pause between two looks at the queue, and between two looks at nodes that are going away.

    Raises:
        ValueError: If two of them contradict each other, or one is not in whole seconds of at least 1.
    """

    max_runtime: Duration
    queue_timeout: Duration
    launch_timeout: Duration
    start_timeout: Duration
    save_timeout: Duration
    heartbeat: Duration
    first_step_timeout: Duration
    stall_timeout: Duration
    poll_interval: Duration

    def __post_init__(self) -> None:
        for field in fields(self):
            value: Duration = getattr(self, field.name)
            if value.to_seconds(integral=False) < 1 or value.to_seconds(integral=False) % 1:
                raise ValueError(f"'{field.name}' must be whole seconds and at least 1, got {value.to_human_string()}")
        for shorter, longer in (
            ("heartbeat", "max_runtime"),
            ("heartbeat", "save_timeout"),
            ("launch_timeout", "start_timeout"),
        ):
            short, long = getattr(self, shorter), getattr(self, longer)
            if short.to_seconds() >= long.to_seconds():
                raise ValueError(
                    f"'{shorter}' must be shorter than '{longer}' ({long.to_human_string()}), "
                    f"got {short.to_human_string()}"
                )

    @property
    def execution_timeout(self) -> Duration:
        """
        Bound of the whole execution: everything above, and an hour for terminating.

        It is a last resort only: Step Functions runs no Catch when it strikes.
        """
        parts = (self.queue_timeout, self.start_timeout, self.max_runtime, self.save_timeout, Duration.hours(1))
        return Duration.seconds(sum(part.to_seconds() for part in parts))
