"""A rank's progress, which it reports to the agent in one small file that is replaced atomically."""

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
    The progress of one rank.

    Only `step`, `advances`, `timed_steps` and `step_seconds` are known for every script. The helpers
    `horovod_node.training` and `horovod_node.torch_training` report the others; they are `None` until then.

    Args:
        step: Training steps since the start of the whole training, for people. It decreases when steps are lost.
        advances: How often a new step was seen; stalls are detected by this number. It never decreases, though *step*
            does when a ring returns to its last commit, or when a script uses a second optimizer.
        epoch: The current epoch, counted from 1.
        epochs: Number of epochs of the training.
        steps: Steps of the whole training, at the ring's present size.
        loss: Loss of the current epoch on this rank.
        samples_per_second: Throughput of the whole ring.
        committed_step: The step of the last commit, which survives the loss of a rank.
        repeated_steps: Steps that were lost and repeated.
        compute_seconds_per_step: Seconds until this rank's own gradients are computed.
        wait_seconds_per_step: Seconds that it then waits until the gradients of all ranks are averaged.
        timed_steps: Number of steps whose time was measured.
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
        """Return the fields that people read: all but `step_seconds` and `timed_steps`."""
        facts = asdict(self)
        del facts["step_seconds"], facts["timed_steps"]
        return facts

    def write(self, file: Path) -> None:
        """Replace *file* atomically."""
        # JSON has no NaN and no infinity, which a loss may be.
        facts = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }
        half = file.with_suffix(".half")
        half.write_text(json.dumps(facts, allow_nan=False))
        half.replace(file)

    @classmethod
    def read(cls, file: Path) -> Progress:
        """Read the rank's last report; if there is none yet, all fields have their defaults."""
        try:
            facts = json.loads(file.read_text())
        except FileNotFoundError:
            return cls()
        return cls(**{**facts, "step_seconds": tuple(facts["step_seconds"])})
