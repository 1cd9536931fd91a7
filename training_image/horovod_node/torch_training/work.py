"""
An epoch's work, divided among the ranks.

An epoch is the same as in the script for one GPU: every example once, or `steps_per_epoch` batches. It is divided among
the ranks, so that n ranks need an n-th of the steps. The work is counted in examples or batches, which do not depend on
the ring's size, so that a ring of another size can continue in mid-epoch. All ranks take the same number of steps. A
remainder of fewer examples or batches than ranks is left out. If an epoch has nothing else left, some examples are
repeated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from horovod_node.torch_training import ring
from horovod_node.training_base.position import Position

MakeBatches = Callable[[int, int], Iterable[Any]]
"""Rank and the ring's size to the rank's own batches of one epoch."""


@dataclass(frozen=True, kw_only=True)
class Leg:
    """
    What one rank trains at a time: an epoch, or what is left of it.

    Args:
        batches: This rank's.
        steps: Their number.
        start: Units of the epoch that were done before.
        unit: Units that a step of the whole ring does.
        examples: Examples in a step of one rank, if known.
    """

    batches: Iterable[Any]
    steps: int
    start: int
    unit: int
    examples: int | None


class Work(Protocol):
    """The data of a training."""

    def leg(self, position: Position) -> Leg | None:
        """Return this rank's next work, or `None` if the epoch is done; all ranks call this together."""

    def steps(self) -> int:
        """Return the steps of a whole epoch at the present size; all ranks call this together."""


class Examples:
    """
    The dataset of a `DataLoader`; shuffled alike on all ranks, so that an epoch has each example once, on any ranks.

    Args:
        loader: The script's, for one GPU. Batches come from loaders like it.
        steps_per_epoch: Batches in an epoch. Default: all examples.
    """

    def __init__(self, loader: DataLoader[Any], *, steps_per_epoch: int | None) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None:
            raise TypeError(
                "a DataLoader of an IterableDataset, or with a batch_sampler, cannot be divided: give a function of "
                "rank and the ring's size that makes a rank's own loader"
            )
        sampler = loader.sampler
        self._shuffle = isinstance(sampler, RandomSampler)
        plain = type(sampler) is SequentialSampler or (
            type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)
        )
        if not plain:
            raise TypeError(
                f"a DataLoader with the sampler {type(sampler).__name__} cannot be divided: leave the sampler out, or "
                "give a function of rank and the ring's size that makes a rank's own loader"
            )
        self._loader, self._length, self._batch_size = loader, len(loader.dataset), loader.batch_size
        if not self._length:
            raise ValueError("the dataset has no example")
        self._units = steps_per_epoch * loader.batch_size if steps_per_epoch else self._length

    def leg(self, position: Position) -> Leg | None:
        if position.done >= self._units:
            return None
        rows = self._rows(position.done)
        order = np.arange(self._length)
        if self._shuffle:
            np.random.default_rng((position.order, position.epoch)).shuffle(order)
        mine = order[(position.done + ring.rank() + ring.size() * np.arange(rows)) % self._length]
        return Leg(
            batches=self._like_the_scripts(mine.tolist()),
            steps=self._steps(rows),
            start=position.done,
            unit=self._batch_size * ring.size(),
            examples=self._batch_size,
        )

    def steps(self) -> int:
        return self._steps(self._rows(0))

    def _rows(self, done: int) -> int:
        return max(1, (self._units - done) // ring.size())

    def _steps(self, rows: int) -> int:
        return int(rows // self._batch_size if self._drops(rows) else -(-rows // self._batch_size))

    def _drops(self, rows: int) -> bool:
        # At least one step is taken.
        return bool(self._loader.drop_last) and rows >= self._batch_size

    def _like_the_scripts(self, indices: list[int]) -> DataLoader[Any]:
        theirs = self._loader
        return DataLoader(
            theirs.dataset,
            batch_size=self._batch_size,
            sampler=indices,
            num_workers=theirs.num_workers,
            collate_fn=theirs.collate_fn,
            pin_memory=theirs.pin_memory,
            drop_last=self._drops(len(indices)),
            timeout=theirs.timeout,
            worker_init_fn=theirs.worker_init_fn,
            multiprocessing_context=theirs.multiprocessing_context,
            generator=theirs.generator,
            prefetch_factor=theirs.prefetch_factor,
        )


class Batches:
    """
    Batches that a function returns for each rank, so that no rank reads another's data.

    Args:
        make: The function; called again when the ring's size has changed.
        steps_per_epoch: Batches of all ranks in an epoch. Default: as many as all ranks have.
    """

    def __init__(self, make: MakeBatches, *, steps_per_epoch: int | None) -> None:
        self._make, self._steps_per_epoch = make, steps_per_epoch
        self._made: tuple[tuple[int, int], Iterable[Any]] | None = None

    def leg(self, position: Position) -> Leg | None:
        units = self._units()
        if position.done and position.done >= units:
            return None
        size = ring.size()
        steps = max(1, (units - position.done) // size)
        return Leg(
            batches=itertools.islice(self._round(), position.done // size, position.done // size + steps),
            steps=steps,
            start=position.done,
            unit=size,
            examples=getattr(self._mine(), "batch_size", None),
        )

    def steps(self) -> int:
        return max(1, self._units() // ring.size())

    def _units(self) -> int:
        if self._steps_per_epoch is not None:
            return self._steps_per_epoch
        mine = self._mine()
        try:
            own = len(mine)  # type: ignore[arg-type]  # what has none says so
        except TypeError:
            # Ranks that train until their data end would take different numbers of steps, and wait for each other.
            raise ValueError(
                "'steps_per_epoch' must be given: how many batches the function's data have is not known"
            ) from None
        if not own:
            raise ValueError("the function's data have no batch")
        # The smallest share decides.
        return int(ring.gather([own], name="units").min()) * ring.size()

    def _round(self) -> Iterator[Any]:
        """Yield this rank's batches, again from the start when they end."""
        while True:
            empty = True
            for batch in self._mine():
                empty = False
                yield batch
            if empty:
                raise ValueError("the function's data have no batch")

    def _mine(self) -> Iterable[Any]:
        place = ring.rank(), ring.size()
        if self._made is None or self._made[0] != place:
            self._made = place, self._make(*place)
        return self._made[1]


def divide(data: Any, *, steps_per_epoch: int | None) -> Work:
    """
    Take the data of a script for one GPU, or a function of rank and size that makes a rank's own.

    Raises:
        TypeError: If the data cannot be divided.
    """
    if isinstance(data, DataLoader):
        return Examples(data, steps_per_epoch=steps_per_epoch)
    if callable(data):
        return Batches(data, steps_per_epoch=steps_per_epoch)
    raise TypeError(
        "'data' must be a DataLoader, or a function of rank and the ring's size that makes one, got "
        f"{type(data).__name__}"
    )
