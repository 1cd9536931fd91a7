"""
A Keras optimizer that averages its gradients over the ring, under Keras 2 and under Keras 3.

Horovod's own wrapper overrides methods that Keras 3 never calls. This one overrides the one method of each Keras that
all gradients pass through on their way into the variables: `apply_gradients` (Keras 2) and `apply` (Keras 3). Clipping,
gradient accumulation, moving averages and weight decay come after it there, so they see averaged gradients.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from horovod_node.rank_process import step_times
from horovod_node.training import ring
from horovod_node.training_base.learning_rate import Rule, rule_of

_SHARE = "_horovod_share"


def distributed(optimizer: Any, *, scale_learning_rate: str | Rule = "linear") -> Any:
    """
    Make *optimizer* average its gradients over all ranks, and give it back.

    Its `learning_rate` stays what the script says, one GPU's: schedules and callbacks read and set it as ever. The
    factor is applied behind it, in each update, and follows the ring's size. A model saved with the optimizer holds
    neither the factor nor anything else of the ring, and loads where this package is not installed.

    Args:
        optimizer: A Keras optimizer, of Keras 2 (legacy ones too) or Keras 3; also a `LossScaleOptimizer`.
        scale_learning_rate:
            "linear": n ranks take steps n times as long, as their batch is n times as large. "sqrt": the square root
            of n times, often the better one for Adam and large n. "none". Or a function of the ring's size.
            Default: "linear".
    """
    rule = rule_of(scale_learning_rate)
    if share_of(optimizer) is not None:
        raise ValueError("the optimizer is distributed already")
    if not (hasattr(optimizer, "apply_gradients") and hasattr(optimizer, "learning_rate")):
        raise TypeError(f"'optimizer' must be a Keras optimizer, got {type(optimizer).__name__}")
    if not ring.started():
        raise RuntimeError("call training.start() before training.distributed()")
    scaled = inner_of(optimizer)
    if scaled is optimizer:
        _join(optimizer, Share(averages=True, rule=rule))
    else:
        # The outer one looks for infinities: on averages, so that all ranks find the same.
        _join(scaled, Share(averages=False, rule=rule))
        _join(optimizer, Share(averages=True, rule=None))
    follow_size(optimizer)
    return optimizer


def adopt(model: Any) -> None:
    """
    See to it that *model*'s optimizer averages.

    With `mixed_float16`, `compile` puts a LossScaleOptimizer around the optimizer that it is given. A rank that finds
    an infinity there would skip a step in which the others average: the averaging moves outside.

    Raises:
        TypeError: If the script did not distribute it, and there are other ranks.
    """
    optimizer, inner = model.optimizer, inner_of(model.optimizer)
    share, inner_share = share_of(optimizer), share_of(inner)
    if share is None and inner_share is not None:
        inner_share.averages = False
        _join(optimizer, Share(averages=True, rule=None))
    elif share is None and ring.is_ring():
        raise TypeError(
            "the model's optimizer does not average gradients: give training.distributed(...) of it to compile()"
        )


def follow_size(optimizer: Any) -> None:
    """Apply the ring's present size to the learning rate."""
    share = share_of(inner_of(optimizer))
    if share is not None and share.rule is not None:
        share.factor.assign(share.rule(ring.size()))


def build(optimizer: Any, variables: list[Any]) -> None:
    """Make the variables that the optimizer would make in its first step."""
    if hasattr(optimizer, "_create_all_weights"):  # Keras 2, legacy
        optimizer._create_all_weights(variables)
        return
    with tf.init_scope():
        optimizer.build(variables)


def finish(model: Any) -> None:
    """Do once what Keras does at the end of each `fit`: kept averages of weights take their place."""
    if hasattr(model.optimizer, "finalize_variable_values"):
        model.optimizer.finalize_variable_values(model.trainable_variables)


def inner_of(optimizer: Any) -> Any:
    """Give the optimizer inside of a LossScaleOptimizer, or *optimizer* itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def share_of(optimizer: Any) -> Share | None:
    """Give what the ring added to *optimizer*, if it did."""
    share: Share | None = vars(optimizer).get(_SHARE)
    return share


@contextlib.contextmanager
def unfinished(optimizer: Any) -> Iterator[None]:
    """Let Keras end a part of the training without the optimizer's last touch, which is for its end alone."""
    shares = [share for share in (share_of(optimizer), share_of(inner_of(optimizer))) if share is not None]
    for share in shares:
        share.finishes = False
    try:
        yield
    finally:
        for share in shares:
            share.finishes = True


@dataclass
class Share:
    """What the ring adds to one optimizer."""

    averages: bool
    rule: Rule | None
    finishes: bool = True
    applying: bool = False

    def __post_init__(self) -> None:
        # Kept apart from the optimizer's own variables: those are saved with the model.
        with tf.init_scope(), tf.device("CPU:0"):
            self.factor = tf.Variable(1.0, trainable=False, name="learning_rate_factor")

    def average(self, gradients: list[Any]) -> list[Any]:
        """Average over the ring, if this optimizer is the one that does."""
        if not self.averages or not ring.is_ring():
            return gradients
        return step_times.OF_THIS_PROCESS.around(ring.average, gradients)

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Let the learning rate be the scaled one meanwhile."""
        before, self.applying = self.applying, True
        try:
            yield
        finally:
            self.applying = before

    def scaled(self, rate: Any) -> Any:
        """Give the learning rate that is meant now: the ring's within an update, the script's outside of it."""
        if not self.applying or self.rule is None:
            return rate
        rate = tf.convert_to_tensor(rate)
        return rate * tf.cast(self.factor, rate.dtype)


def _join(optimizer: Any, share: Share) -> None:
    vars(optimizer)[_SHARE] = share
    # In place: one made anew from its configuration would lose what the script did to it since.
    plain: Any = type(optimizer)
    optimizer.__class__ = _ring_class(plain)


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
            share = _own(self)
            gradients = share.average(list(grads))
            with share.apply():
                return super().apply(gradients, trainable_variables)

    return Averaging


def _averaging_keras_2(plain: type[Any]) -> type[Any]:
    class Averaging(plain):  # type: ignore[misc]  # known at run time only
        def apply_gradients(self, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
            share, pairs = _own(self), list(grads_and_vars)
            gradients = share.average([gradient for gradient, _ in pairs])
            with share.apply():
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


def _own(optimizer: Any) -> Share:
    share: Share = vars(optimizer)[_SHARE]
    return share
