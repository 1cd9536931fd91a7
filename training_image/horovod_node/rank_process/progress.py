"""A rank's progress on its way to the agent: one small file, replaced as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """
    How far a rank is.

    Only `step`, `advances` and the steps' seconds are known of every script. The others are `None` until they are, and
    stay so in a script that does not train with `horovod_node.training`.

    Args:
        step: Training steps since the start of the whole training, for people; goes back when steps are lost.
        advances: Times that a step was seen to be taken; this is what a stall is judged by. It never goes back, though
            *step* does when a ring returns to its last commit, or a script takes a second optimizer.
        epoch: The epoch in work, counted from 1.
        epochs: How many there will be.
        steps: Steps of the whole training, as the ring's present size makes it.
        loss: The running epoch's, on this rank.
        samples_per_second: Of the whole ring.
        committed_step: The last step that a lost rank cannot take away.
        repeated_steps: Steps that were lost and done again.
        compute_seconds_per_step: What this rank needs by itself, until its gradients are there.
        wait_seconds_per_step: What it then waits until the gradients of all ranks are averaged.
        timed_steps: Steps that were measured.
        step_seconds: Seconds of each of the last of them, the newest last; for metrics, not for people.
    """

    step: int = 0
    advances: int = 0
    epoch: int | None = None
    epochs: int | None = None
    steps: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    committed_step: int | None = None
    repeated_steps: int = 0
    compute_seconds_per_step: float | None = None
    wait_seconds_per_step: float | None = None
    timed_steps: int = 0
    step_seconds: Sequence[float] = ()

    def for_people(self) -> dict[str, Any]:
        """Give what people read: all of it but single steps' seconds."""
        facts = asdict(self)
        del facts["step_seconds"], facts["timed_steps"]
        return facts

    def write(self, file: Path) -> None:
        """Replace *file*, so that a reader never sees half of it."""
        # A loss that is not a number is not JSON either.
        facts = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        half = file.with_suffix(".half")
        half.write_text(json.dumps(facts, allow_nan=False))
        half.replace(file)

    @classmethod
    def read(cls, file: Path) -> Progress:
        """Read what the rank wrote last; nothing yet is no progress."""
        try:
            facts = json.loads(file.read_text())
        except FileNotFoundError:
            return cls()
        return cls(**{**facts, "step_seconds": tuple(facts["step_seconds"])})
