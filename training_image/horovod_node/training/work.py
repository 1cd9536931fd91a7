"""
An epoch's work, divided among the ranks.

An epoch is the same as in the script for one GPU: every example once, or `steps_per_epoch` batches. It is divided among
the ranks, so that n ranks need an n-th of the steps. The work is counted in examples or batches, which do not depend on
the ring's size, so that a ring of another size can continue in mid-epoch. All ranks take the same number of steps. A
remainder of fewer examples or batches than ranks is left out. If an epoch has nothing else left, some examples are
repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import tensorflow as tf

from horovod_node.training import ring
from horovod_node.training_base.position import Position

MakeDataset = Callable[[int, int], Any]
"""Rank and the ring's size to the rank's own data of one epoch, a `tf.data.Dataset`."""


_ORDER: Final = ("x", "y", "sample_weight")


@dataclass(frozen=True, kw_only=True)
class Leg:
    """
    The work of one call of Keras's `fit` on one rank.

    Args:
        arguments: The data arguments of `fit`.
        epoch: The first epoch, from 0.
        epochs: The last epoch plus one.
        steps: Steps of each of these epochs.
        start: Units of the first epoch that are already done.
        unit: Units in a step of the whole ring.
        examples: Examples in a step of one rank, if known.
    """

    arguments: Mapping[str, Any]
    epoch: int
    epochs: int
    steps: int
    start: int
    unit: int
    examples: int | None


class Work(Protocol):
    """The data of a training."""

    def leg(self, position: Position, epochs: int) -> Leg | None:
        """Return this rank's next work, or `None` if the epoch is done; all ranks call this together."""

    def steps(self) -> int:
        """Return the steps of a whole epoch at the present size; all ranks call this together."""

    def batch(self) -> Any:
        """Return a batch as `train_step` gets it, of any rank's data, without communication."""


class Arrays:
    """
    Examples in memory. All ranks shuffle them in the same order, so that an epoch has each of them once.

    Args:
        examples: The arguments `x`, `y` and `sample_weight` of `fit`; each an array, or lists or dicts of arrays.
        batch_size: Examples in a step of one rank.
        steps_per_epoch: Batches in an epoch. Default: all examples.
        shuffle: Whether to shuffle the examples in each epoch.
    """

    def __init__(
        self, examples: Mapping[str, Any], *, batch_size: int, steps_per_epoch: int | None, shuffle: bool
    ) -> None:
        self._examples = {
            name: tf.nest.map_structure(np.asarray, data) for name, data in examples.items() if data is not None
        }
        lengths = {len(array) for data in self._examples.values() for array in tf.nest.flatten(data)}
        if len(lengths) != 1:
            raise ValueError(f"the arrays must be equally long, got lengths {sorted(lengths)}")
        (self._length,) = lengths
        self._batch_size, self._shuffle = batch_size, shuffle
        self._units = steps_per_epoch * batch_size if steps_per_epoch else self._length

    def leg(self, position: Position, epochs: int) -> Leg | None:  # noqa: ARG002 - the signature is the protocol's
        if position.done >= self._units:
            return None
        rows = self._rows(position.done)
        order = np.arange(self._length)
        if self._shuffle:
            np.random.default_rng((position.order, position.epoch)).shuffle(order)
        mine = order[(position.done + ring.rank() + ring.size() * np.arange(rows)) % self._length]
        share = {name: tf.nest.map_structure(lambda array: array[mine], data) for name, data in self._examples.items()}
        return Leg(
            arguments={**share, "batch_size": self._batch_size, "shuffle": False},
            epoch=position.epoch,
            epochs=position.epoch + 1,
            steps=-(-rows // self._batch_size),
            start=position.done,
            unit=self._batch_size * ring.size(),
            examples=self._batch_size,
        )

    def steps(self) -> int:
        return -(-self._rows(0) // self._batch_size)

    def batch(self) -> Any:
        def first(array: Any) -> Any:
            rows = array[: self._batch_size]
            # As Keras does it.
            return rows.astype(tf.keras.backend.floatx()) if rows.dtype.kind == "f" else rows

        given = tuple(tf.nest.map_structure(first, self._examples[name]) for name in _ORDER if name in self._examples)
        return given[0] if len(given) == 1 and not tf.nest.is_nested(given[0]) else given

    def _rows(self, done: int) -> int:
        return max(1, (self._units - done) // ring.size())


class Batches:
    """
    A dataset of batches.

    Args:
        data:
            A `tf.data.Dataset`, of which each rank takes every n-th batch; or a function that returns a rank's own
            dataset, so that no rank reads another's data.
        steps_per_epoch: Batches in an epoch. Default: all that the dataset has.
    """

    def __init__(self, data: Any, *, steps_per_epoch: int | None) -> None:
        self._make: MakeDataset | None = data if callable(data) and not isinstance(data, tf.data.Dataset) else None
        self._whole: Any = None if self._make else data
        self._steps_per_epoch = steps_per_epoch
        self._made: tuple[tuple[int, int], Any] | None = None

    def leg(self, position: Position, epochs: int) -> Leg | None:
        if position.done and position.done >= self._units():
            return None
        steps, size = self._steps(position.done), ring.size()
        endless = self._steps_per_epoch is not None
        data = self._share(position.done, steps)
        examples = _batch_size(data)
        # An endless dataset continues from epoch to epoch, so one call of `fit` trains all remaining whole epochs.
        several = endless and not position.done
        return Leg(
            arguments={"x": data, **({"steps_per_epoch": steps} if endless else {})},
            epoch=position.epoch,
            epochs=epochs if several else position.epoch + 1,
            steps=steps,
            start=position.done,
            unit=size,
            examples=examples,
        )

    def steps(self) -> int:
        return self._steps(0)

    def batch(self) -> Any:
        return next(iter((self._mine() if self._make else self._whole).take(1)))

    def _steps(self, done: int) -> int:
        return max(1, (self._units() - done) // ring.size())

    def _units(self) -> int:
        if self._steps_per_epoch is not None:
            return self._steps_per_epoch
        units = _cardinality(self._mine() if self._make else self._whole)
        if self._make:
            # The smallest share decides.
            units = int(ring.gather([units], name="units").min()) * ring.size()
        return units

    def _share(self, done: int, steps: int) -> Any:
        rank, size = ring.rank(), ring.size()
        data = self._mine() if self._make else self._whole
        if self._steps_per_epoch is not None:
            data = data.repeat()
            return data if self._make or size == 1 else data.shard(size, rank)
        if self._make:
            return data.skip(done // size).concatenate(data).take(steps)
        # If fewer batches than ranks are left, some ranks take batches from the beginning.
        return data.skip(done).concatenate(data.repeat()).shard(size, rank).take(steps)

    def _mine(self) -> Any:
        assert self._make is not None
        place = ring.rank(), ring.size()
        if self._made is None or self._made[0] != place:
            self._made = place, self._make(*place)
        return self._made[1]


def divide(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None,
    steps_per_epoch: int | None,
    shuffle: bool,
) -> Work:
    """Divide the data of Keras's `fit`, or of a function of rank and the ring's size."""
    if isinstance(x, tf.data.Dataset) or (callable(x) and not hasattr(x, "shape")):
        if y is not None or sample_weight is not None:
            raise ValueError("'y' and 'sample_weight' must be part of the dataset")
        return Batches(x, steps_per_epoch=steps_per_epoch)
    given = [data for data in tf.nest.flatten([x, y, sample_weight]) if data is not None]
    kinds = {type(data).__name__ for data in given if not hasattr(data, "shape")}
    if kinds:
        raise TypeError(
            "the data must be arrays, a tf.data.Dataset, or a function of rank and size that gives one; "
            f"got {', '.join(sorted(kinds))}"
        )
    return Arrays(
        {"x": x, "y": y, "sample_weight": sample_weight},
        batch_size=batch_size or 32,
        steps_per_epoch=steps_per_epoch,
        shuffle=shuffle,
    )


def _cardinality(data: Any) -> int:
    batches = int(data.cardinality().numpy())
    if batches < 0:
        # Ranks that train until their data end would take different numbers of steps, and wait for each other for ever.
        raise ValueError("'steps_per_epoch' must be given: how many batches the dataset has is not known, or endless")
    if batches == 0:
        raise ValueError("the dataset has no batch")
    return batches


def _batch_size(data: Any) -> int | None:
    """Find the batch size in a dataset's shapes, or in the datasets that it was made from."""
    shapes = tf.nest.flatten(tf.compat.v1.data.get_output_shapes(data))
    if shapes and shapes[0].rank and shapes[0][0] is not None:
        return int(shapes[0][0])
    while data is not None:
        size = getattr(data, "_batch_size", None)
        if size is not None:
            return int(size)
        data = getattr(data, "_input_dataset", None)
    return None
