"""What a training must not lose: the variables of its model and its optimizer, and how far it is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from horovod_node.training import optimizer as optimizers
from horovod_node.training import ring
from horovod_node.training_base.committed_state import CommittedState
from horovod_node.training_base.position import Position


class TrainingState(CommittedState):
    """
    The state of one call of `fit` on one rank.

    The optimizer's variables are made here, before the first `sync`: a rank that came later and has none yet would
    send fewer than the others wait for, and the whole ring would hang without a word.

    Args:
        model: A built and compiled Keras model.
        position: Where the training begins.
    """

    def __init__(self, model: Any, position: Position) -> None:
        super().__init__(position)
        optimizers.build(model.optimizer, list(model.trainable_variables))
        self._model = model
        self.variables = [*model.weights, *_optimizer_variables(model.optimizer)]

    def values(self) -> list[np.ndarray[Any, Any]]:
        """Copy all variables into the host's memory."""
        return [np.asarray(variable.numpy()) for variable in self.variables]

    def load(self, values: Sequence[np.ndarray[Any, Any]], position: Position) -> None:
        """Take over a state."""
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)
        self.position = position

    def sync(self) -> None:
        """
        Take over the state of the rank that is furthest, and commit it.

        Raises:
            FitOverError: If the others are in a later call of `fit`.
        """
        root, digests = self.take_furthest_position(ring.gather, self._digest())
        if len(set(digests[:, 0])) > 1:
            raise RuntimeError("the ranks' models or optimizers differ in their variables")
        for variable, value in zip(
            self.variables, ring.broadcast([_tensor(variable) for variable in self.variables], root=root), strict=True
        ):
            variable.assign(value)
        optimizers.follow_size(self._model.optimizer)
        self.commit()

    def describe(self) -> list[dict[str, Any]]:
        """List names, shapes and types of the variables."""
        return [
            {
                "name": str(getattr(variable, "path", variable.name)),
                "shape": list(variable.shape),
                "dtype": tf.as_dtype(variable.dtype).name,
            }
            for variable in self.variables
        ]

    def _digest(self) -> int:
        # Not the names: Keras numbers them, and a script may have made more models on one rank than on another.
        facts = [(fact["shape"], fact["dtype"]) for fact in self.describe()]
        return zlib.crc32(repr(facts).encode())


def _tensor(variable: Any) -> Any:
    return tf.convert_to_tensor(getattr(variable, "value", None) if _is_keras_3(variable) else variable)


def _is_keras_3(variable: Any) -> bool:
    return not isinstance(variable, tf.Variable) and not callable(getattr(variable, "value", None))


def _optimizer_variables(optimizer: Any) -> list[Any]:
    variables = optimizer.variables
    listed = list(variables() if callable(variables) else variables)
    # Keras 2 keeps these apart.
    inner = optimizers.inner_of(optimizer)
    candidates = [vars(inner).get("_learning_rate"), *_legacy_hyper(inner), *_loss_scale(optimizer)]
    known = {id(variable) for variable in listed}
    listed += [each for each in candidates if isinstance(each, tf.Variable) and id(each) not in known]
    return listed


def _legacy_hyper(optimizer: Any) -> list[Any]:
    return list(vars(optimizer).get("_hyper", {}).values())


def _loss_scale(optimizer: Any) -> list[Any]:
    return list(getattr(vars(optimizer).get("_loss_scale"), "_weights", {}).values())
