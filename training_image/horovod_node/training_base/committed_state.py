"""The state of a training, for both frameworks: commits in memory, rollback, and synchronisation of the ranks."""

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
        """Return the rows of all ranks, a NumPy array in the order of ranks."""


class CommittedState(ABC):
    """
    The state of one call of `fit` on one rank.

    Args:
        position: Position at which the training begins.
        model: Number of the model, among those that the script trains.
    """

    def __init__(self, position: Position, *, model: int) -> None:
        self.position = position
        self._model = model
        self.committed: Commit | None = None
        self.commit_seconds = 0.0

    @abstractmethod
    def values(self) -> Any:
        """Copy the state into host memory; GPU memory has no room for a copy."""

    @abstractmethod
    def load(self, values: Any, position: Position) -> None:
        """Replace the state."""

    @abstractmethod
    def hand_down(self, model: int, *, root: int, late: bool) -> None:
        """
        Send a model that was trained earlier to ranks that joined later; all ranks call this together.

        Args:
            model: Number of the model.
            root: The rank that sends it.
            late: Whether this rank needs it.
        """

    def commit(self) -> Commit:
        """Keep a copy of the state in host memory."""
        began = time.monotonic()
        self.committed = Commit(position=self.position, values=self.values())
        self.commit_seconds = time.monotonic() - began
        return self.committed

    def restore(self) -> None:
        """Return to the last commit, and count the lost steps."""
        if self.committed is None:
            return
        lost = self.position.step - self.committed.position.step
        repeated = self.position.repeated_steps + lost
        self.load(self.committed.values, replace(self.committed.position, repeated_steps=repeated))

    def take_furthest_position(self, gather: Gather, *facts: float) -> tuple[int, Any]:
        """
        Adopt the position of the rank with the most steps, which is rank 0 unless that rank has just joined.

        Args:
            gather: The ring's `gather`.
            facts: Further facts that every rank shares.

        Returns:
            The rank with the most steps, and the facts of all ranks, one row per rank.

        Raises:
            FitOverError: If the others are in a later call of `fit`.
        """
        while True:
            mine = self.position
            rows = gather([mine.fit, mine.step, self._model, *facts], name="places")
            fits = rows[:, 0]
            root = int(rows[:, 1].argmax())
            # A rank that joined late passes through the script's earlier calls first.
            if fits.min() == fits.max():
                break
            self.hand_down(int(rows[fits.argmin(), 2]), root=root, late=mine.fit == fits.min())
            if mine.fit < fits.max():
                raise FitOverError
        self.position = Position.from_row(gather(mine.to_row(), name="position")[root].tolist())
        return root, rows[:, 3:]
