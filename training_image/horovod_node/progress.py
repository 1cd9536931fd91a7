"""A rank's progress on its way to the agent: one small file, replaced as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Progress:
    """
    How far a rank is.

    Args:
        step: Training steps, for people.
        advances: Times that a step was seen to be taken; this is what a stall is judged by. It differs from *step*
            when a script trains with one optimizer after another: the second one starts at 0 again, and still advances.
    """

    step: int = 0
    advances: int = 0

    def write(self, file: Path) -> None:
        """Replace *file*, so that a reader never sees half of it."""
        half = file.with_suffix(".half")
        half.write_text(f"{self.step} {self.advances}")
        half.replace(file)

    @classmethod
    def read(cls, file: Path) -> Progress:
        """Read what the rank wrote last; nothing yet is no progress."""
        try:
            step, advances = file.read_text().split()
        except FileNotFoundError:
            return cls()
        return cls(step=int(step), advances=int(advances))
