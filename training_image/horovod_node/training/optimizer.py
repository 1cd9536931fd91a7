"""
A Keras optimizer that averages its gradients over the ring, under Keras 2 and under Keras 3.

Horovod's own wrapper overrides methods that Keras 3 never calls. This one overrides the one method of each Keras that
all gradients pass through on their way into the variables: `apply_gradients` (Keras 2) and `apply` (Keras 3). Clipping,
gradient accumulation, moving averages and weight decay come after it there, so they see averaged gradients. As it is
one method for Keras's `fit` and for a script's own loop, it serves both.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from horovod_node.training import refusals, ring
from horovod_node.training.averaging import Averaging, is_rehearsed
from horovod_node.training_base.learning_rate import Rule, rule_of

_AVERAGING = "_horovod_share"


def distributed(optimizer: Any, *, scale_learning_rate: str | Rule = "linear") -> Any:
    """
    Make *optimizer* average its gradients over all ranks, and give it back.

    It serves `training.fit`, Keras's own `fit`, and a loop of one's own. In the latter two the ranks take over rank 0's
    weights before the first step.

    Its `learning_rate` stays what the script says, one GPU's: schedules and callbacks read and set it as ever. The
    factor is applied behind it, in each update, and follows the ring's size. A model saved with the optimizer holds
    neither the factor nor anything else of the ring, and loads where this package is not installed.

    Args:
        optimizer: A Keras optimizer, of Keras 2 (legacy ones too) or Keras 3; also a `LossScaleOptimizer`.
        scale_learning_rate:
            "linear": n ranks take steps n times as long, as their batch is n times as large. "sqrt": the square root
            of n times, often the better one for Adam and large n. "none". Or a function of the ring's size.
            Default: "linear".

    Raises:
        TypeError: If *optimizer* is none of Keras's, or is Horovod's.
        ValueError: If there is no rule *scale_learning_rate*, or the optimizer is distributed already.
        RuntimeError: If `start` was not called before, or Keras 3 computes with another framework than TensorFlow.
    """
    rule = rule_of(scale_learning_rate)
    averaging = averaging_of(optimizer)
    if averaging is not None and not averaging.is_inert:
        raise ValueError("the optimizer is distributed already")
    if not (hasattr(optimizer, "apply_gradients") and hasattr(optimizer, "learning_rate")):
        raise TypeError(f"'optimizer' must be a Keras optimizer, got {type(optimizer).__name__}")
    refusals.check_class(optimizer)
    refusals.check_backend(optimizer)
    if not ring.started():
        raise RuntimeError("call training.start() before training.distributed()")
    scaled = inner_of(optimizer)
    if scaled is optimizer:
        join(optimizer, Averaging(averages=True, rule=rule))
    else:
        # The outer one looks for infinities: on averages, so that all ranks find the same.
        join(scaled, Averaging(averages=False, rule=rule))
        join(optimizer, Averaging(averages=True, rule=None))
    follow_size(optimizer)
    return optimizer


def adopt(optimizer: Any) -> None:
    """
    See to it that a model's *optimizer* averages.

    With `mixed_float16`, `compile` puts a LossScaleOptimizer around the optimizer that it is given. A rank that finds
    an infinity there would skip a step in which the others average: the averaging moves outside.

    Raises:
        TypeError: If the script did not distribute it, and there are other ranks.
    """
    inner = inner_of(optimizer)
    averaging, inner_averaging = averaging_of(optimizer), averaging_of(inner)
    if averaging is None and inner_averaging is not None:
        inner_averaging.averages = False
        join(optimizer, Averaging(averages=True, rule=None))
    elif averaging is None and ring.is_ring():
        raise TypeError(
            "the model's optimizer does not average gradients: give training.distributed(...) of it to compile()"
        )


def follow_size(optimizer: Any) -> None:
    """Apply the ring's present size to the learning rate."""
    averaging = averaging_of(inner_of(optimizer))
    if averaging is not None and averaging.rule is not None:
        averaging.factor.assign(averaging.rule(ring.size()))


def follow_ring(optimizer: Any) -> None:
    """Take it that all ranks have the same variables now, and apply the ring's size to the learning rate."""
    follow_size(optimizer)
    averaging = averaging_of(optimizer)
    if averaging is not None:
        averaging.together = True


def has_averaged(optimizer: Any) -> bool:
    """Whether a step of *optimizer* that averages was ever prepared."""
    averaging = averaging_of(optimizer)
    return averaging is not None and averaging.used


def build(optimizer: Any, variables: Sequence[Any]) -> None:
    """Make the variables that the optimizer would make in its first step."""
    if hasattr(optimizer, "_create_all_weights"):  # Keras 2, legacy
        optimizer._create_all_weights(variables)
        return
    with tf.init_scope():
        optimizer.build(list(variables))


def finish(model: Any) -> None:
    """Do once what Keras does at the end of each `fit`: kept averages of weights take their place."""
    if hasattr(model.optimizer, "finalize_variable_values"):
        model.optimizer.finalize_variable_values(model.trainable_variables)


def inner_of(optimizer: Any) -> Any:
    """Give the optimizer inside of a LossScaleOptimizer, or *optimizer* itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def averaging_of(optimizer: Any) -> Averaging | None:
    """Give what the ring added to *optimizer*, if it did."""
    averaging: Averaging | None = vars(optimizer).get(_AVERAGING)
    return averaging


def variables_of(optimizer: Any) -> list[Any]:
    """List all variables of *optimizer*, those of the one inside of it too."""
    variables = optimizer.variables
    listed = list(variables() if callable(variables) else variables)
    # Keras 2 keeps these apart.
    inner = inner_of(optimizer)
    hyper, scale = vars(inner).get("_hyper", {}), getattr(vars(optimizer).get("_loss_scale"), "_weights", {})
    known = {id(variable) for variable in listed}
    candidates = [vars(inner).get("_learning_rate"), *hyper.values(), *scale.values()]
    return listed + [each for each in candidates if isinstance(each, tf.Variable) and id(each) not in known]


@contextlib.contextmanager
def unfinished(optimizer: Any) -> Iterator[None]:
    """Let Keras end a part of the training without the optimizer's last touch, which is for its end alone."""
    averagings = [
        averaging for averaging in (averaging_of(optimizer), averaging_of(inner_of(optimizer))) if averaging is not None
    ]
    for averaging in averagings:
        averaging.finishes = False
    try:
        yield
    finally:
        for averaging in averagings:
            averaging.finishes = True


def join(optimizer: Any, averaging: Averaging) -> None:
    """Put *averaging* into *optimizer*, in place: one made anew would lose what the script did to it since."""
    is_joined = averaging_of(optimizer) is not None
    vars(optimizer)[_AVERAGING] = averaging
    if not is_joined:
        plain: Any = type(optimizer)
        optimizer.__class__ = _ring_class(plain)


def _prepared(optimizer: Any, variables: Sequence[Any]) -> bool:
    """
    Prepare a step of *optimizer* on *variables*; give whether it shall be taken.

    In a loop that is not `training.fit`'s, nobody else makes the ranks begin alike. Weights that began apart would stay
    apart for ever, by as much, however well the gradients are averaged.
    """
    if is_rehearsed(optimizer, variables):
        return False
    averaging = _own(optimizer)
    if averaging.averages and ring.is_ring():
        refusals.check_step()
        if not averaging.together:
            averaging.together = True
            _begin_together(optimizer, variables)
    return True


def _begin_together(optimizer: Any, variables: Sequence[Any]) -> None:
    with tf.init_scope():
        # In a TensorFlow 1 graph there is nothing to send yet; under hvd.elastic.run its state does it, on all ranks.
        if not tf.executing_eagerly() or ring.syncs_by_itself():
            return
        build(optimizer, variables)
        everything = list({id(variable): variable for variable in (*variables, *variables_of(optimizer))}.values())
        for variable, value in zip(everything, ring.values_of(everything, root=0), strict=True):
            variable.assign(value)


@functools.cache
def _ring_class(plain: Any) -> Any:
    if hasattr(plain, "_decayed_lr"):
        averaging = _averaging_keras_2(_scaled_legacy(plain))
    elif hasattr(plain, "apply"):
        averaging = _averaging_keras_3(_scaled(plain))
    else:
        averaging = _averaging_keras_2(_scaled(plain))

    class RingOptimizer(averaging):  # type: ignore[misc, valid-type]  # known at run time only
        # Keras writes `optimizer.__class__` into saved models, and must find there what it knows.
        __class__ = property(lambda _optimizer: plain)

    return RingOptimizer


def _averaging_keras_3(plain: type[Any]) -> type[Any]:
    class Averaging(plain):  # type: ignore[misc]  # known at run time only
        def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
            if not _prepared(self, self._trainable_variables if trainable_variables is None else trainable_variables):
                return None
            averaging = _own(self)
            gradients = averaging.average(list(grads))
            with averaging.apply():
                return super().apply(gradients, trainable_variables)

    return Averaging


def _averaging_keras_2(plain: type[Any]) -> type[Any]:
    class Averaging(plain):  # type: ignore[misc]  # known at run time only
        def apply_gradients(self, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
            averaging, pairs = _own(self), list(grads_and_vars)
            if not _prepared(self, [variable for _, variable in pairs]):
                return self.iterations
            gradients = averaging.average([gradient for gradient, _ in pairs])
            with averaging.apply():
                averaged = zip(gradients, (variable for _, variable in pairs), strict=True)
                return super().apply_gradients(list(averaged), *args, **kwargs)

    return Averaging


def _scaled(plain: type[Any]) -> type[Any]:
    class Scaled(plain):  # type: ignore[misc]  # known at run time only
        @property
        def learning_rate(self) -> Any:
            return _own(self).scaled(super().learning_rate)

        @learning_rate.setter
        def learning_rate(self, value: Any) -> None:
            plain.learning_rate.fset(self, value)

        def finalize_variable_values(self, var_list: Any) -> None:
            if _own(self).finishes:
                super().finalize_variable_values(var_list)

    return Scaled


def _scaled_legacy(plain: type[Any]) -> type[Any]:
    class Scaled(plain):  # type: ignore[misc]  # known at run time only
        def _decayed_lr(self, var_dtype: Any) -> Any:
            return _own(self).scaled(super()._decayed_lr(var_dtype))

    return Scaled


def _own(optimizer: Any) -> Averaging:
    averaging: Averaging = vars(optimizer)[_AVERAGING]
    return averaging
