"""What the states of both frameworks' trainings do alike: commits in memory, the way back, and whose state counts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from horovod_node.training_base.commits import Commit
from horovod_node.training_base.elastic import FitOverError
from horovod_node.training_base.position import Position


class Gather(Protocol):
    """A ring's `gather`."""

    def __call__(self, row: Sequence[float], *, name: str) -> Any:
        """Give everyone's *row*, a NumPy array in the order of ranks."""


class CommittedState(ABC):
    """
    The state of one call of `fit` on one rank.

    Args:
        position: Where the training begins.
        model: Number of the model that is trained, of those that the script trains.
    """

    def __init__(self, position: Position, *, model: int) -> None:
        self.position = position
        self._model = model
        self.committed: Commit | None = None
        self.commit_seconds = 0.0

    @abstractmethod
    def values(self) -> Any:
        """Copy what the training changes into the host's memory; the GPU's has no room for a copy."""

    @abstractmethod
    def load(self, values: Any, position: Position) -> None:
        """Take over a state."""

    @abstractmethod
    def hand_down(self, model: int, *, root: int, late: bool) -> None:
        """
        Give ranks that have come late a model that was trained before they came; all ranks call this together.

        Args:
            model: Its number.
            root: The rank that gives it.
            late: Whether this rank takes it.
        """

    def commit(self) -> Commit:
        """Keep a copy in the host's memory."""
        began = time.monotonic()
        self.committed = Commit(position=self.position, values=self.values())
        self.commit_seconds = time.monotonic() - began
        return self.committed

    def restore(self) -> None:
        """Go back to the last commit, and count what is lost."""
        if self.committed is None:
            return
        lost = self.position.step - self.committed.position.step
        repeated = self.position.repeated_steps + lost
        self.load(self.committed.values, replace(self.committed.position, repeated_steps=repeated))

    def take_furthest_position(self, gather: Gather, *facts: float) -> tuple[int, Any]:
        """
        Take over the position of the rank that is furthest, which is rank 0 wherever it has not just come.

        Args:
            gather: The ring's.
            facts: What else every rank tells of itself.

        Returns:
            That rank, and the facts of all, a row a rank.

        Raises:
            FitOverError: If the others are in a later call of `fit`.
        """
        while True:
            mine = self.position
            rows = gather([mine.fit, mine.step, self._model, *facts], name="places")
            fits = rows[:, 0]
            root = int(rows[:, 1].argmax())
            # A rank that has come late goes through earlier calls first.
            if fits.min() == fits.max():
                break
            self.hand_down(int(rows[fits.argmin(), 2]), root=root, late=mine.fit == fits.min())
            if mine.fit < fits.max():
                raise FitOverError
        self.position = Position.from_row(gather(mine.to_row(), name="position")[root].tolist())
        return root, rows[:, 3:]
