"""Commits, which keep the training's state in memory, and their schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from horovod_node.training_base.position import Position

COMMIT_SECONDS: Final = 2.0
"""
Seconds between two commits: the work that a lost node may cost. Nodes also join and leave the ring at commits only, and
a Spot notice gives two minutes to leave.
"""
COMMIT_SHARE: Final = 0.02
"""Share of the time that commits may take; large models thus commit less often than every `COMMIT_SECONDS`."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """
    A state in host memory, to which the training can return.

    Args:
        position: Position of the training.
        values: The framework's values. They never change, so they can be written to disk in the background.
    """

    position: Position
    values: Any


class CommitSchedule:
    """
    Decides after how many steps the next commit is due.

    All ranks must commit at the same step, so they all use rank 0's number.

    Args:
        every: A fixed number of steps. Default: as many as take `COMMIT_SECONDS`, judged by the last steps.

    Raises:
        ValueError: If *every* is below 1.
    """

    def __init__(self, every: int | None) -> None:
        if every is not None and every < 1:
            raise ValueError(f"'commit_every' must be at least 1, got {every}")
        self._every = every
        self.steps = every or 1

    def propose(self, *, seconds: float, commit_seconds: float) -> int:
        """
        Propose the next interval.

        Args:
            seconds: Seconds that the steps since the last commit took.
            commit_seconds: Seconds that the commit took.
        """
        if self._every is not None:
            return self._every
        wanted = max(COMMIT_SECONDS, commit_seconds / COMMIT_SHARE)
        fitting = int(self.steps * wanted / seconds) if seconds > 0 else 2 * self.steps
        # The interval at most doubles: the first steps include compilation, and do not predict the next ones.
        return max(1, min(fitting, 2 * self.steps))
