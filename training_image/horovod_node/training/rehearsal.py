"""
Finds the optimizers that train a model, and the variables that each of them trains.

Keras's own `train_step` uses the model's optimizer for all trainable variables. A script's `train_step`, for a GAN for
example, may use optimizers that Keras does not know. So it is rehearsed once: each optimizer that would take a step is
recorded, and takes none. The rehearsal creates the optimizers' variables, so that they can be compared, committed and
restored. It also finds an optimizer that does not average before it has trained anything.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from horovod_node.training import optimizer as optimizers
from horovod_node.training import ring
from horovod_node.training.averaging import Averaging, Rehearsal, rehearsing

_KERAS = ("keras", "tf_keras")


def keras_of(model: Any) -> Any:
    """
    Return the Keras package of *model*, `keras` or `tf_keras`.

    Raises:
        TypeError: If *model* is not a Keras model.
    """
    roots = (base.__module__.partition(".")[0] for base in type(model).__mro__)
    keras = next((root for root in roots if root in _KERAS), None)
    if keras is None:
        raise TypeError(f"'model' must be a Keras model, got {type(model).__name__}")
    return importlib.import_module(keras)


def optimizers_of(model: Any, batch: Callable[[], Any]) -> list[Any]:
    """
    Find the optimizers that train *model*, and create their variables.

    Args:
        model: A Keras model, built if it can be called.
        batch: Returns data as `train_step` gets them.

    Raises:
        TypeError: If one of them does not average, and there are other ranks.
    """
    if _is_kerass(model.train_step):
        optimizers.adopt(model.optimizer)
        optimizers.build(model.optimizer, list(model.trainable_variables))
        if (averaging := optimizers.averaging_of(model.optimizer)) is not None:
            averaging.number = 0
        return [model.optimizer]
    with contextlib.suppress(TypeError):
        # Moves the averaging to the outer optimizer. The rehearsal finds optimizers that do not average.
        optimizers.adopt(model.optimizer)
    found = _rehearse(model, batch)
    if not found and ring.is_ring():
        raise TypeError(
            f"{type(model).__name__}.train_step takes no step with an optimizer: gradients are averaged by the "
            "apply_gradients() of one from training.distributed(...)"
        )
    for number, optimizer in enumerate(found):
        averaging = optimizers.averaging_of(optimizer)
        assert averaging is not None
        averaging.number = number
    return found


def has_call(model: Any) -> bool:
    """Whether *model* can be called; a model with its own `train_step` may have no `call`."""
    keras = keras_of(model)
    return type(model).call not in (keras.Model.call, keras.layers.Layer.call)


def _rehearse(model: Any, batch: Callable[[], Any]) -> list[Any]:
    found: list[Any] = []
    plain: list[Any] = []

    def hear(optimizer: Any, variables: Sequence[Any]) -> None:
        optimizers.build(optimizer, variables)
        if not any(optimizer is each for each in found):
            found.append(optimizer)

    def hear_of_plain(optimizer: Any, variables: Sequence[Any]) -> None:
        plain.append(optimizer)
        if not ring.is_ring():
            optimizers.join(optimizer, Averaging(averages=False, rule=None))
            hear(optimizer, variables)

    data = tf.nest.map_structure(tf.convert_to_tensor, batch())
    with _hearing(keras_of(model), hear, hear_of_plain):
        if model.run_eagerly:
            # The step is executed here; weights that change without an optimizer, such as statistics, are restored.
            before = [(weight, weight.numpy()) for weight in model.weights if hasattr(weight, "shape")]
            model.train_step(data)
            for weight, value in before:
                weight.assign(value)
        else:
            # Only traced, not executed.
            tf.function(model.train_step).get_concrete_function(data)
    if plain and ring.is_ring():
        raise TypeError(
            f"{_name_of(plain[0], model)} does not average gradients: give training.distributed(...) of it to the model"
        )
    return found


@contextlib.contextmanager
def _hearing(keras: Any, hear: Rehearsal, hear_of_plain: Rehearsal) -> Iterator[None]:
    """Inside this context, call *hear* or *hear_of_plain* instead of steps of *keras*'s optimizers."""
    bases = [keras.optimizers.Optimizer]
    legacy = getattr(getattr(keras.optimizers, "legacy", None), "Optimizer", None)
    # In Keras 3 the legacy class only prints a warning.
    if hasattr(legacy, "apply_gradients"):
        bases.append(legacy)
    with contextlib.ExitStack() as patches:
        patches.enter_context(rehearsing(hear))
        for base in bases:
            method = "apply" if hasattr(base, "apply") else "apply_gradients"
            patches.enter_context(_instead(base, method, hear_of_plain))
        yield


@contextlib.contextmanager
def _instead(base: Any, method: str, hear: Rehearsal) -> Iterator[None]:
    inherited = method not in vars(base)
    before = getattr(base, method)

    def only_hear(optimizer: Any, gradients: Any, variables: Any = None, **_arguments: Any) -> Any:
        if method == "apply_gradients":
            variables = [variable for _, variable in gradients]
        hear(optimizer, list(optimizer._trainable_variables if variables is None else variables))
        return optimizer.iterations

    setattr(base, method, only_hear)
    try:
        yield
    finally:
        if inherited:
            delattr(base, method)
        else:
            setattr(base, method, before)


def _name_of(optimizer: Any, model: Any) -> str:
    for name, value in vars(model).items():
        if value is optimizer:
            return f"the model's '{name.removeprefix('_')}'"
    return f"an optimizer of the model's train_step ({type(optimizer).__name__})"


def _is_kerass(train_step: Any) -> bool:
    return train_step.__module__.partition(".")[0] in _KERAS
