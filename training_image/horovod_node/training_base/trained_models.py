"""The models that a script trains, in the order in which it begins to train them."""

from __future__ import annotations

import weakref
from typing import Any


class TrainedModels:
    """
    Numbers the models of one process, from 0.

    The number identifies the model of a checkpoint, and a model that a late rank has missed. It is the same in every
    process of a run, because all run the same script. A model that the script drops keeps its number, but is not kept
    alive.
    """

    def __init__(self) -> None:
        self._models: list[weakref.ref[Any]] = []

    def number(self, model: Any) -> int:
        """Return *model*'s number; a new model gets the next one."""
        for number, reference in enumerate(self._models):
            if reference() is model:
                return number
        self._models.append(weakref.ref(model))
        return len(self._models) - 1

    def model(self, number: int) -> Any:
        """Return the model with this *number*; `None` if there is none, or the script has dropped it."""
        return self._models[number]() if number < len(self._models) else None
