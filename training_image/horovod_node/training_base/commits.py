"""Commits: what they keep, and how often they come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from horovod_node.training_base.position import Position

COMMIT_SECONDS: Final = 2.0
"""
Work that a lost node may cost. Also the time until a node that is to be taken away leaves in order, and until one that
has come is taken in: a Spot notice leaves two minutes.
"""
COMMIT_SHARE: Final = 0.02
"""Part of the time that commits may take; a large model commits less often than every `COMMIT_SECONDS`."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """
    A state that the training can go back to, in the host's memory.

    Args:
        position: How far the training was.
        values: The framework's values. Never changed, so they can be written to disk meanwhile.
    """

    position: Position
    values: Any


class CommitSchedule:
    """
    Says after how many steps the next commit comes.

    All ranks must commit at the same step, so they all take rank 0's number.

    Args:
        every: A fixed number of steps. Default: as many as take `COMMIT_SECONDS`, from what the last ones took.
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
            seconds: What the steps since the last commit took.
            commit_seconds: What the commit took.
        """
        if self._every is not None:
            return self._every
        wanted = max(COMMIT_SECONDS, commit_seconds / COMMIT_SHARE)
        fitting = int(self.steps * wanted / seconds) if seconds > 0 else 2 * self.steps
        # The first steps compile, and say little of those that follow.
        return max(1, min(fitting, 2 * self.steps))
