"""How far a training is, in numbers that hold for a ring of any size."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, kw_only=True)
class Position:
    """
    How far a training is.

    Args:
        fit: Which of the script's calls of `fit` this is, from 1.
        step: Steps since the script's start, restarts and earlier calls of `fit` included.
        epoch: Epochs that are done.
        done: What of the next epoch's work is done, by all ranks together, in units of its data.
        order: Seed of the order in which arrays are gone through.
        repeated_steps: Steps that were lost.
    """

    fit: int = 1
    step: int = 0
    epoch: int = 0
    done: int = 0
    order: int = 0
    repeated_steps: int = 0

    def to_row(self) -> tuple[int, ...]:
        """Write the position as numbers, for the other ranks."""
        return astuple(self)

    @classmethod
    def from_row(cls, row: list[float]) -> Position:
        """Read what another rank wrote."""
        fit, step, epoch, done, order, repeated_steps = map(int, row)
        return cls(fit=fit, step=step, epoch=epoch, done=done, order=order, repeated_steps=repeated_steps)
