"""What a call of `fit` tells the agent: steps, epochs, the loss, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from horovod_node import steps
from horovod_node.rank_process import step_times
from horovod_node.training_base.position import Position

_LOOK_SECONDS = 1.0
"""How often the loss is looked at, which makes the GPU's queue run empty."""


class Leg(Protocol):
    """What is trained at a time."""

    @property
    def steps(self) -> int:
        """Steps of each epoch."""

    @property
    def examples(self) -> int | None:
        """Examples in a step of one rank, if known."""


class Report:
    """
    Tells the agent after every step; what is expensive to look at, every second.

    Args:
        epochs: Epochs in all.
    """

    def __init__(self, *, epochs: int) -> None:
        self._epochs = epochs
        self._looked_at, self._looked_step = time.monotonic(), 0
        self._told_at = time.monotonic()
        self._facts: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Keep facts that the next reports tell: fields of `horovod_node.rank_process.progress.Progress`."""
        self._facts |= facts

    def begin(self, step: int) -> None:
        """Measure from here, after *step*: what was between is no part of a step."""
        step_times.OF_THIS_PROCESS.pause()
        self._looked_at, self._looked_step = time.monotonic(), step
        # No advance: the first step may take longer than any other.
        steps.tell(step=step, advance=False, **self._facts)

    def tell(
        self, position: Position, *, leg: Leg, taken: int, epoch_steps: int, ranks: int, logs: Mapping[str, Any]
    ) -> None:
        """
        Tell of a step.

        Args:
            position: Where the training is after it.
            leg: What is trained now.
            taken: Steps of *leg* that were taken.
            epoch_steps: Steps of a whole epoch.
            ranks: The ring's size.
            logs: What is known of the step; its `loss` is looked at.
        """
        now = time.monotonic()
        whole_epochs = self._epochs - position.epoch - 1
        self._facts |= {
            "epoch": position.epoch + 1,
            "epochs": self._epochs,
            "steps": position.step + leg.steps - taken + whole_epochs * epoch_steps,
        }
        # An epoch shorter than the interval is looked at when it ends.
        ends = taken >= leg.steps and now - self._told_at >= _LOOK_SECONDS
        if ends or now - self._looked_at >= _LOOK_SECONDS:
            self._told_at = now
            if "loss" in logs:
                self._facts["loss"] = float(logs["loss"])
            if leg.examples:
                examples = (position.step - self._looked_step) * leg.examples * ranks
                self._facts["samples_per_second"] = examples / (now - self._looked_at)
            self._looked_at, self._looked_step = now, position.step
        steps.tell(step=position.step, **self._facts)
