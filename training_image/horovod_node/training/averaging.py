"""The ring's additions to an optimizer: averaged gradients, and a learning rate that follows the ring's size."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from horovod_node.rank_process import step_times
from horovod_node.training import ring
from horovod_node.training_base.learning_rate import Rule

_numbers = itertools.count()

Rehearsal = Callable[[Any, Sequence[Any]], None]
"""Called with an optimizer that would take a step, and the variables that the step would change."""

_rehearsals: list[Rehearsal] = []


@contextlib.contextmanager
def rehearsing(hear: Rehearsal) -> Iterator[None]:
    """Inside this context, call *hear* instead of steps of distributed optimizers."""
    _rehearsals.append(hear)
    try:
        yield
    finally:
        _rehearsals.remove(hear)


def is_rehearsed(optimizer: Any, variables: Sequence[Any]) -> bool:
    """Whether steps are being rehearsed; if so, report that of *optimizer*, which must not be taken."""
    for hear in _rehearsals:
        hear(optimizer, variables)
    return bool(_rehearsals)


@dataclass
class Averaging:
    """
    The ring's additions to one optimizer.

    Args:
        averages: Whether this optimizer averages. If one optimizer wraps another, the outer one does.
        rule: Rule by which the learning rate follows the ring's size; `None` if this optimizer does not scale it.
        number:
            Number of the optimizer, among those of the model. It is part of the gradients' names, which would otherwise
            collide. Default: in the order of first steps, which is the same on all ranks.
        finishes: Whether Keras may now replace the weights with their moving averages.
        applying: Whether an update is in progress.
        used: Whether the optimizer ever averaged, traced or eagerly.
        together: Whether the ranks have begun with the same variables.
    """

    averages: bool
    rule: Rule | None
    number: int | None = None
    finishes: bool = True
    applying: bool = False
    used: bool = False
    together: bool = False

    def __post_init__(self) -> None:
        # Not one of the optimizer's own variables, because those are saved with the model.
        with tf.init_scope(), tf.device("CPU:0"):
            self.factor = tf.Variable(1.0, trainable=False, name="learning_rate_factor")

    @property
    def is_inert(self) -> bool:
        """Whether nothing is added. Without a ring, an optimizer that is not distributed is only observed."""
        return not self.averages and self.rule is None

    def average(self, gradients: list[Any]) -> list[Any]:
        """Average *gradients* over the ring, if this optimizer averages."""
        if not self.averages or not ring.is_ring():
            return gradients
        if self.number is None:
            self.number = next(_numbers)
        self.used = True
        number = self.number

        def average(gradients: list[Any]) -> list[Any]:
            return ring.average(gradients, optimizer=number)

        # Only the first optimizer's steps are measured: several optimizers would share one measurement.
        return average(gradients) if number else step_times.OF_THIS_PROCESS.around(average, gradients)

    @contextlib.contextmanager
    def apply(self) -> Iterator[None]:
        """Inside this context, `scaled` scales the learning rate."""
        before, self.applying = self.applying, True
        try:
            yield
        finally:
            self.applying = before

    def scaled(self, rate: Any) -> Any:
        """Return the scaled learning rate inside `apply`, and the script's outside of it."""
        if not self.applying or self.rule is None:
            return rate
        rate = tf.convert_to_tensor(rate)
        return rate * tf.cast(self.factor, rate.dtype)
