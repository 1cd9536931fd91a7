"""What the ring adds to one optimizer: averages, and a learning rate that follows the ring's size."""

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
"""Hears of an optimizer that would take a step now, and of the variables that it would change."""

_rehearsals: list[Rehearsal] = []


@contextlib.contextmanager
def rehearsing(hear: Rehearsal) -> Iterator[None]:
    """Let no distributed optimizer take a step meanwhile, and *hear* of those that would."""
    _rehearsals.append(hear)
    try:
        yield
    finally:
        _rehearsals.remove(hear)


def is_rehearsed(optimizer: Any, variables: Sequence[Any]) -> bool:
    """Whether a step of *optimizer* is rehearsed, and not to be taken."""
    for hear in _rehearsals:
        hear(optimizer, variables)
    return bool(_rehearsals)


@dataclass
class Averaging:
    """
    What the ring adds to one optimizer.

    Args:
        averages: Whether this is the one that averages; of two, one around the other, the outer one does.
        rule: How the learning rate follows the ring's size, if it does so here.
        number:
            Which of the optimizers that work at the same time this is: two whose gradients had the same names would get
            each other's. Default: by the order of first steps, which is the same on all ranks.
        finishes: Whether Keras may put kept averages of weights in their place now.
        applying: Whether an update is going on.
        used: Whether it ever averaged, in a graph or at once.
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
        # Kept apart from the optimizer's own variables: those are saved with the model.
        with tf.init_scope(), tf.device("CPU:0"):
            self.factor = tf.Variable(1.0, trainable=False, name="learning_rate_factor")

    @property
    def is_inert(self) -> bool:
        """Whether it only listens; where there is no ring, a model's optimizer need not be distributed."""
        return not self.averages and self.rule is None

    def average(self, gradients: list[Any]) -> list[Any]:
        """Average over the ring, if this optimizer is the one that does."""
        if not self.averages or not ring.is_ring():
            return gradients
        if self.number is None:
            self.number = next(_numbers)
        self.used = True
        number = self.number

        def average(gradients: list[Any]) -> list[Any]:
            return ring.average(gradients, optimizer=number)

        # A step is one of the first: what others do at the same time cannot be told apart from it.
        return average(gradients) if number else step_times.OF_THIS_PROCESS.around(average, gradients)

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
