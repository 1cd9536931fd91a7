"""How an epoch's work is divided, by rings of any size, with losses at any point; and when it is committed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.ring

Place = Callable[[int, int], None]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    """Give what puts this process at a rank of a ring that is only imagined: dividing needs two numbers of it."""
    from horovod_node.training import ring

    def put(rank: int, size: int) -> None:
        monkeypatch.setattr(ring, "rank", lambda: rank)
        monkeypatch.setattr(ring, "size", lambda: size)
        monkeypatch.setattr(ring, "gather", lambda row, **_: np.asarray([row] * size))

    return put


def taken(leg: Any, *, steps: int) -> list[int]:
    """List the examples that a rank takes in so many steps."""
    x = leg.arguments["x"]
    if isinstance(x, np.ndarray):
        return list(map(int, x[: steps * leg.arguments["batch_size"]]))
    return [int(value) for batch in x.take(steps) for value in np.atleast_1d(batch.numpy())]


@pytest.mark.parametrize(
    ("length", "batch", "sizes", "lost_after"),
    [(97, 8, (3, 2, 4), 2), (64, 8, (1, 5, 1), 3), (10, 4, (2, 1, 1), 1), (500, 16, (4, 3, 2), 5)],
)
def test_epoch_of_arrays_has_each_example_once_whatever_happens_to_the_ring(
    place: Place, length: int, batch: int, sizes: tuple[int, ...], lost_after: int
) -> None:
    """A ring that changes twice in an epoch goes on with what is left; less than a ring's width is left out."""
    from horovod_node.training.work import divide
    from horovod_node.training_base.position import Position

    # GIVEN
    work = divide(np.arange(length), batch_size=batch, steps_per_epoch=None, shuffle=True)
    position, seen = Position(order=5), Counter[int]()
    # WHEN
    for number, size in enumerate(sizes):
        legs = []
        for rank in range(size):
            place(rank, size)
            legs.append(work.leg(position, 1))
        if legs[0] is None:
            break
        assert len({leg.steps for leg in legs}) == 1
        assert len({len(leg.arguments["x"]) for leg in legs}) == 1
        last = number == len(sizes) - 1
        steps = legs[0].steps if last else min(lost_after, legs[0].steps)
        for leg in legs:
            seen.update(taken(leg, steps=steps))
        position = replace(position, done=legs[0].start + steps * legs[0].unit)
    # THEN
    assert max(seen.values()) <= 2
    assert sum(count - 1 for count in seen.values()) <= max(sizes)
    assert length - len(seen) < max(sizes)


def test_orders_differ_from_epoch_to_epoch_and_not_from_rank_to_rank(place: Place) -> None:
    """Ranks that shuffle apart would take some examples twice and others never."""
    from horovod_node.training.work import divide
    from horovod_node.training_base.position import Position

    work = divide(np.arange(40), batch_size=4, steps_per_epoch=None, shuffle=True)
    shares = {}
    for epoch, rank in itertools.product(range(2), range(2)):
        place(rank, 2)
        shares[epoch, rank] = list(work.leg(Position(epoch=epoch), 2).arguments["x"])
    assert sorted(shares[0, 0] + shares[0, 1]) == list(range(40))
    assert shares[0, 0] != shares[1, 0]


def test_dataset_is_divided_by_batches(place: Place) -> None:
    """Every rank takes every n-th batch, the same number of them, and after a change of what is left."""
    import tensorflow as tf

    from horovod_node.training.work import divide
    from horovod_node.training_base.position import Position

    # GIVEN ten batches of two
    work = divide(tf.data.Dataset.range(20).batch(2), batch_size=None, steps_per_epoch=None, shuffle=True)
    # WHEN three ranks take two steps
    shares = []
    for rank in range(3):
        place(rank, 3)
        leg = work.leg(Position(), 1)
        assert (leg.steps, leg.examples) == (3, 2)
        shares += taken(leg, steps=2)
    # THEN
    assert sorted(shares) == list(range(12))
    # AND two ranks the rest
    for rank in range(2):
        place(rank, 2)
        leg = work.leg(Position(done=6), 1)
        assert leg.steps == 2
        shares += taken(leg, steps=2)
    assert sorted(shares) == list(range(20))
    assert work.leg(Position(done=10), 1) is None


def test_ranks_own_datasets_end_with_the_smallest(place: Place) -> None:
    """A function makes a rank's own data, anew when the ring's size has changed."""
    import tensorflow as tf

    from horovod_node.training.work import divide
    from horovod_node.training_base.position import Position

    made = []

    def data(rank: int, size: int) -> Any:
        made.append((rank, size))
        return tf.data.Dataset.range(rank, 30, size).batch(2)

    work = divide(data, batch_size=None, steps_per_epoch=None, shuffle=True)
    place(1, 3)
    leg = work.leg(Position(done=3), 1)
    assert (leg.steps, taken(leg, steps=4)) == (4, [7, 10, 13, 16, 19, 22, 25, 28])
    place(0, 2)
    assert work.steps() == 8
    assert made == [(1, 3), (0, 2)]


def test_endless_dataset_goes_on_from_epoch_to_epoch(place: Place) -> None:
    """Its epochs are made in one go: from the start again, the same first batches would come each time."""
    import tensorflow as tf

    from horovod_node.training.work import divide
    from horovod_node.training_base.position import Position

    work = divide(tf.data.Dataset.range(100).repeat().batch(1), batch_size=None, steps_per_epoch=10, shuffle=True)
    place(0, 2)
    whole = work.leg(Position(epoch=1), 5)
    assert (whole.epoch, whole.epochs, whole.steps, whole.arguments["steps_per_epoch"]) == (1, 5, 5, 5)
    part = work.leg(Position(epoch=1, done=6), 5)
    assert (part.epoch, part.epochs, part.steps) == (1, 2, 2)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda tf: {"x": tf.data.Dataset.range(9).repeat().batch(1)}, ValueError, "'steps_per_epoch' must be given"),
        (lambda tf: {"x": tf.data.Dataset.range(9).filter(lambda v: v > 3)}, ValueError, "'steps_per_epoch'"),
        (lambda tf: {"x": tf.data.Dataset.range(0)}, ValueError, "the dataset has no batch"),
        (lambda tf: {"x": tf.data.Dataset.range(9), "y": np.ones(9)}, ValueError, "part of the dataset"),
        (lambda _tf: {"x": np.ones(9), "y": np.ones(8)}, ValueError, r"equally long, got lengths \[8, 9\]"),
        (lambda _tf: {"x": iter([1])}, TypeError, "must be arrays, a tf.data.Dataset, or a function"),
    ],
)
def test_fails_when_data_cannot_be_divided(place: Place, make: Any, error: type[Exception], words: str) -> None:
    """Ranks that take different numbers of steps would wait for each other for ever."""
    import tensorflow as tf

    from horovod_node.training.work import divide

    place(0, 2)
    with pytest.raises(error, match=words):
        divide(**make(tf), batch_size=None, steps_per_epoch=None, shuffle=True).steps()


def test_commits_come_every_two_seconds() -> None:
    """The interval grows no faster than twofold, so that a slow first step does not decide; and never below a step."""
    from horovod_node.training_base.commits import CommitSchedule

    schedule, intervals = CommitSchedule(None), []
    for _ in range(8):
        schedule.steps = schedule.propose(seconds=0.1 * schedule.steps, commit_seconds=0.001)
        intervals.append(schedule.steps)
    assert intervals == [2, 4, 8, 16, 20, 20, 20, 20]
    assert schedule.propose(seconds=0.1 * 20, commit_seconds=0.001) == 20
    schedule.steps = 1
    assert schedule.propose(seconds=30.0, commit_seconds=0.001) == 1


def test_costly_commits_come_less_often() -> None:
    """At most a fiftieth of the time goes into them."""
    from horovod_node.training_base.commits import CommitSchedule

    schedule = CommitSchedule(None)
    schedule.steps = 100
    assert schedule.propose(seconds=10.0, commit_seconds=0.3) == 150


def test_fixed_interval_stays() -> None:
    """A number of steps is a number of steps."""
    from horovod_node.training_base.commits import CommitSchedule

    assert CommitSchedule(7).propose(seconds=100.0, commit_seconds=1.0) == 7
    with pytest.raises(ValueError, match="'commit_every' must be at least 1, got 0"):
        CommitSchedule(0)
