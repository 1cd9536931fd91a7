"""The position of a training, which is independent of the ring's size."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True, kw_only=True)
class Position:
    """
    The position of a training.

    Args:
        fit: Number of this call of `fit` in the script, from 1.
        step: Steps since the run's start, including those before restarts and of earlier calls of `fit`.
        epoch: Number of completed epochs.
        done: Work that all ranks together have done in the present epoch, in units of its data.
        order: Seed of the order of examples.
        repeated_steps: Number of steps that were lost.
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
        """Read the position of another rank."""
        fit, step, epoch, done, order, repeated_steps = map(int, row)
        return cls(fit=fit, step=step, epoch=epoch, done=done, order=order, repeated_steps=repeated_steps)
