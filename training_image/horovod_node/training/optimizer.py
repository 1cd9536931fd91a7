"""
A Keras optimizer that averages its gradients over the ring, under Keras 2 and under Keras 3.

Horovod's own wrapper overrides methods that Keras 3 never calls. This one overrides, in each Keras, the method through
which all gradients reach the variables: `apply_gradients` (Keras 2) and `apply` (Keras 3). Clipping, gradient
accumulation, moving averages and weight decay happen inside that method, so they get averaged gradients. Keras's `fit`
and a script's own loop both call it.
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
    Make *optimizer* average its gradients over all ranks, and return it.

    It works with `training.fit`, with Keras's own `fit`, and in a script's own loop. In the latter two, the ranks adopt
    rank 0's weights before the first step.

    Its `learning_rate` remains that of one GPU: schedules and callbacks read and set it as usual. Each update uses it
    times a factor that follows the ring's size. A model saved with the optimizer contains nothing of the ring, and
    loads without this package.

    Args:
        optimizer: A Keras optimizer, of Keras 2 (also a legacy one) or Keras 3; also a `LossScaleOptimizer`.
        scale_learning_rate:
            "linear": n ranks multiply the learning rate by n, because their batch is n times as large. "sqrt": by the
            square root of n, which is often better with Adam and a large n. "none": it is not scaled. Or a function of
            the ring's size that returns the factor.
            Default: "linear".

    Raises:
        TypeError: If *optimizer* is not a Keras optimizer, or is Horovod's.
        ValueError: If there is no rule *scale_learning_rate*, or the optimizer is distributed already.
        RuntimeError: If `start` was not called before, or the backend of Keras 3 is not TensorFlow.
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
        # The outer one looks for infinities. On averaged gradients all ranks find the same.
        join(scaled, Averaging(averages=False, rule=rule))
        join(optimizer, Averaging(averages=True, rule=None))
    follow_size(optimizer)
    return optimizer


def adopt(optimizer: Any) -> None:
    """
    Ensure that a model's *optimizer* averages.

    With `mixed_float16`, `compile` wraps the optimizer in a LossScaleOptimizer, which skips a step if it finds an
    infinity. The averaging moves to that outer optimizer, so that all ranks skip the same steps.

    Raises:
        TypeError: If the script did not distribute the optimizer, and there are other ranks.
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
    """Scale the learning rate to the ring's present size."""
    averaging = averaging_of(inner_of(optimizer))
    if averaging is not None and averaging.rule is not None:
        averaging.factor.assign(averaging.rule(ring.size()))


def follow_ring(optimizer: Any) -> None:
    """Record that all ranks have the same variables, and scale the learning rate to the ring's size."""
    follow_size(optimizer)
    averaging = averaging_of(optimizer)
    if averaging is not None:
        averaging.together = True


def has_averaged(optimizer: Any) -> bool:
    """Whether *optimizer* has ever averaged, or was traced to average."""
    averaging = averaging_of(optimizer)
    return averaging is not None and averaging.used


def build(optimizer: Any, variables: Sequence[Any]) -> None:
    """Create the variables that the optimizer would create in its first step."""
    if hasattr(optimizer, "_create_all_weights"):  # Keras 2, legacy
        optimizer._create_all_weights(variables)
        return
    with tf.init_scope():
        optimizer.build(list(variables))


def finish(model: Any) -> None:
    """Replace the weights with their moving averages, as Keras does at the end of each `fit`."""
    if hasattr(model.optimizer, "finalize_variable_values"):
        model.optimizer.finalize_variable_values(model.trainable_variables)


def inner_of(optimizer: Any) -> Any:
    """Return the optimizer inside a LossScaleOptimizer, or *optimizer* itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def averaging_of(optimizer: Any) -> Averaging | None:
    """Return the ring's additions to *optimizer*, if there are any."""
    averaging: Averaging | None = vars(optimizer).get(_AVERAGING)
    return averaging


def variables_of(optimizer: Any) -> list[Any]:
    """List all variables of *optimizer*, including those of an inner optimizer."""
    variables = optimizer.variables
    listed = list(variables() if callable(variables) else variables)
    # Keras 2 does not list these.
    inner = inner_of(optimizer)
    hyper, scale = vars(inner).get("_hyper", {}), getattr(vars(optimizer).get("_loss_scale"), "_weights", {})
    known = {id(variable) for variable in listed}
    candidates = [vars(inner).get("_learning_rate"), *hyper.values(), *scale.values()]
    return listed + [each for each in candidates if isinstance(each, tf.Variable) and id(each) not in known]


@contextlib.contextmanager
def unfinished(optimizer: Any) -> Iterator[None]:
    """Inside this context, Keras ends `fit` without replacing weights with moving averages: the training goes on."""
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
    """Add *averaging* to *optimizer*, in place: a new optimizer would lose the script's changes to this one."""
    is_joined = averaging_of(optimizer) is not None
    vars(optimizer)[_AVERAGING] = averaging
    if not is_joined:
        plain: Any = type(optimizer)
        optimizer.__class__ = _ring_class(plain)


def _prepared(optimizer: Any, variables: Sequence[Any]) -> bool:
    """
    Prepare a step of *optimizer* on *variables*; return whether to take it.

    Outside of `training.fit`, this is where the ranks adopt the same weights. If the weights differed at the start,
    averaged gradients would never bring them together.
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
        # In a TensorFlow 1 graph there are no values to send yet. Under hvd.elastic.run, its state does this.
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
        # Keras writes `optimizer.__class__` into saved models, and must find its own class there.
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
