"""The state of a Keras training: the variables of its model and optimizers, and its position."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_node.training import optimizer as optimizers
from horovod_node.training import ring
from horovod_node.training.adapted_layers import AdaptedLayers
from horovod_node.training_base.committed_state import CommittedState
from horovod_node.training_base.position import Position
from horovod_node.training_base.trained_models import TrainedModels


class TrainingState(CommittedState):
    """
    The state of one call of `fit` on one rank.

    Args:
        model: A built and compiled Keras model.
        trained_by:
            The model's optimizers, with all their variables. A later rank without them would send fewer variables than
            the others wait for, and the whole ring would hang silently.
        position: Position at which the training begins.
        models: All models that the script trains.
    """

    def __init__(self, model: Any, trained_by: Sequence[Any], position: Position, models: TrainedModels) -> None:
        super().__init__(position, model=models.number(model))
        self._models = models
        self._optimizers = list(trained_by)
        self._adapted = AdaptedLayers(model)
        listed = [weight for weight in model.weights if not self._adapted.own(weight)]
        for optimizer in self._optimizers:
            listed += optimizers.variables_of(optimizer)
        self.variables = list({id(variable): variable for variable in listed}.values())

    def values(self) -> list[np.ndarray[Any, Any]]:
        """Copy all variables, and the state of adapted layers, into host memory."""
        values = [np.asarray(variable.numpy()) for variable in self.variables]
        return [*values, self._adapted.read()] if self._adapted else values

    def load(self, values: Sequence[np.ndarray[Any, Any]], position: Position) -> None:
        """Replace the state."""
        *variables, learned = values if self._adapted else [*values, None]
        if learned is not None:
            self._adapted.write(learned)
        self._assign(variables)
        self.position = position

    def sync(self) -> None:
        """
        Adopt the state of the rank with the most steps, and commit it.

        Raises:
            FitOverError: If the others are in a later call of `fit`.
        """
        learned = self._adapted.read()
        root, facts = self.take_furthest_position(
            ring.gather, self._digest(), zlib.crc32(learned.tobytes()), len(learned)
        )
        if len(set(facts[:, 0])) > 1:
            raise RuntimeError("the ranks' models or optimizers differ in their variables")
        if len(set(facts[:, 1])) > 1:
            # Padded to the longest, because a broadcast needs the same size on all ranks.
            padded = np.zeros(int(facts[:, 2].max()), np.uint8)
            padded[: len(learned)] = learned
            (padded,) = ring.broadcast([tf.constant(padded)], root=root)
            self._adapted.write(padded.numpy()[: int(facts[root, 2])])
        self._assign(ring.values_of(self.variables, root=root))
        for optimizer in self._optimizers:
            optimizers.follow_ring(optimizer)
        self.commit()

    def hand_down(self, model: int, *, root: int, late: bool) -> None:
        """Broadcast a model's variables, if all ranks still have the model."""
        kept = self._models.model(model)
        variables = [] if kept is None else [weight for weight in kept.weights if hasattr(weight, "shape")]
        shapes = zlib.crc32(repr([(list(each.shape), each.dtype) for each in variables]).encode())
        if not variables or len(set(ring.gather([shapes], name="model")[:, 0])) > 1:
            return
        values = ring.values_of(variables, root=root)
        if late:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def describe(self) -> list[dict[str, Any]]:
        """List the names, shapes and types of the arrays that `values` returns."""
        described = [
            {
                "name": str(getattr(variable, "path", variable.name)),
                "shape": list(variable.shape),
                "dtype": tf.as_dtype(variable.dtype).name,
            }
            for variable in self.variables
        ]
        return (
            [*described, {"name": "adapted layers", "shape": [None], "dtype": "uint8"}] if self._adapted else described
        )

    def _assign(self, values: Sequence[Any]) -> None:
        def assign() -> None:
            for variable, value in zip(self.variables, values, strict=True):
                variable.assign(value)

        self._adapted.around(assign)

    def _digest(self) -> int:
        # Not the names: Keras numbers them, and a script may have created more models on one rank than on another.
        facts = [(fact["shape"], fact["dtype"]) for fact in self.describe()]
        return zlib.crc32(repr(facts).encode())
