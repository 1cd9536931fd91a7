"""
Which optimizers a model is trained by, and what each of them trains.

Keras's own `train_step` uses the model's optimizer for all that is trainable. One that a script wrote, for a GAN for
example, does what it likes, with optimizers that Keras knows nothing of. So it is gone through once, and nothing is
computed: each optimizer that would take a step says so. From that moment it has its variables, which can be compared,
committed and restored, and one that does not average is found before it has trained anything.
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
    Give the module of the Keras that *model* is of.

    Raises:
        TypeError: If it is of none.
    """
    roots = (base.__module__.partition(".")[0] for base in type(model).__mro__)
    keras = next((root for root in roots if root in _KERAS), None)
    if keras is None:
        raise TypeError(f"'model' must be a Keras model, got {type(model).__name__}")
    return importlib.import_module(keras)


def optimizers_of(model: Any, batch: Callable[[], Any]) -> list[Any]:
    """
    Find the optimizers that train *model*, and make their variables.

    Args:
        model: Built, as far as it can be.
        batch: Gives data as `train_step` gets them.

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
        # Puts the averaging where it belongs; what does not average is found as it is used.
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
    """Whether *model* can be called; one with a `train_step` of its own may do without."""
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
            # Every step is a real one here: statistics, which no optimizer changes, are put back.
            before = [(weight, weight.numpy()) for weight in model.weights if hasattr(weight, "shape")]
            model.train_step(data)
            for weight, value in before:
                weight.assign(value)
        else:
            # Traced, and never run.
            tf.function(model.train_step).get_concrete_function(data)
    if plain and ring.is_ring():
        raise TypeError(
            f"{_name_of(plain[0], model)} does not average gradients: give training.distributed(...) of it to the model"
        )
    return found


@contextlib.contextmanager
def _hearing(keras: Any, hear: Rehearsal, hear_of_plain: Rehearsal) -> Iterator[None]:
    """Let no optimizer of *keras* take a step meanwhile, and hear of those that would."""
    bases = [keras.optimizers.Optimizer]
    legacy = getattr(getattr(keras.optimizers, "legacy", None), "Optimizer", None)
    # Keras 3 has one that does nothing but warn.
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
