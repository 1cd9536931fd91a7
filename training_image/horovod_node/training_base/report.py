"""Reports the progress of a call of `fit` to the agent: steps, epochs, the loss and the throughput."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from horovod_node import steps
from horovod_node.rank_process import step_times
from horovod_node.training_base.position import Position

_LOOK_SECONDS = 1.0
"""Seconds between two readings of the loss; each of them waits for the GPU."""


class Leg(Protocol):
    """The part of the training that is done at a time."""

    @property
    def steps(self) -> int:
        """Steps of each epoch."""

    @property
    def examples(self) -> int | None:
        """Examples in a step of one rank, if known."""


class Report:
    """
    Reports to the agent after every step; the loss and the throughput are updated every second.

    Args:
        epochs: Total number of epochs.
    """

    def __init__(self, *, epochs: int) -> None:
        self._epochs = epochs
        self._looked_at, self._looked_step = time.monotonic(), 0
        self._told_at = time.monotonic()
        self._facts: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Add facts to the next reports: fields of `horovod_node.rank_process.progress.Progress`."""
        self._facts |= facts

    def begin(self, step: int) -> None:
        """Start to measure step times here, after *step*; the time since the last step is not counted."""
        step_times.OF_THIS_PROCESS.pause()
        self._looked_at, self._looked_step = time.monotonic(), step
        # Not an advance: the first step may take longer than any other, and has its own time limit.
        steps.tell(step=step, advance=False, **self._facts)

    def tell(
        self, position: Position, *, leg: Leg, taken: int, epoch_steps: int, ranks: int, logs: Mapping[str, Any]
    ) -> None:
        """
        Report a step.

        Args:
            position: Position of the training after the step.
            leg: The present part of the training.
            taken: Steps of *leg* that were taken.
            epoch_steps: Steps of a whole epoch.
            ranks: The ring's size.
            logs: Metrics of the step; only `loss` is used.
        """
        now = time.monotonic()
        whole_epochs = self._epochs - position.epoch - 1
        self._facts |= {
            "epoch": position.epoch + 1,
            "epochs": self._epochs,
            "steps": position.step + leg.steps - taken + whole_epochs * epoch_steps,
        }
        # Epochs shorter than the interval are reported when they end.
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
