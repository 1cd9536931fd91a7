"""The models that a script trains, by the order in which it first does."""

from __future__ import annotations

import weakref
from typing import Any


class TrainedModels:
    """
    Numbers the models of one process, from 0.

    The number says which model a checkpoint is of, and which one a rank has missed that came late: every process of a
    run goes through the same script. A model that the script has dropped keeps its number, and is not kept alive.
    """

    def __init__(self) -> None:
        self._models: list[weakref.ref[Any]] = []

    def number(self, model: Any) -> int:
        """Give *model*'s number, the next one if it has none yet."""
        for number, reference in enumerate(self._models):
            if reference() is model:
                return number
        self._models.append(weakref.ref(model))
        return len(self._models) - 1

    def model(self, number: int) -> Any:
        """Give the model with this *number*; `None` when there is none, or none any more."""
        return self._models[number]() if number < len(self._models) else None
