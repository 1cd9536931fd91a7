"""Which rank a ring waits for."""

from __future__ import annotations

import pytest

from horovod_node.rank_process.step_times import MovingAverage
from horovod_node.ring.step_timing import RankPace, slowest


def pace(rank: int, compute: float, wait: float, *, instance_type: str = "g5.xlarge") -> RankPace:
    return RankPace(
        rank=rank,
        node=f"node-{rank}",
        instance_type=instance_type,
        compute_seconds_per_step=compute,
        wait_seconds_per_step=wait,
    )


def test_slowest_rank_is_the_one_that_computes_longest() -> None:
    """Three fast GPUs wait for a slow one; what all need for the averaging is nobody's fault."""
    # GIVEN an averaging of 0.1 s
    ranks = [pace(0, 0.3, 0.7), pace(1, 0.3, 0.7), pace(2, 0.9, 0.1, instance_type="g4dn.xlarge")]
    # WHEN
    found = slowest([*ranks, pace(3, 0.3, 0.7)])
    # THEN
    assert found is not None
    assert found.pop("cost") == pytest.approx(3 * 0.6 / 4.0)
    assert found == {
        "rank": 2,
        "node": "node-2",
        "instance_type": "g4dn.xlarge",
        "seconds_per_step": 0.9,
        "median_seconds_per_step": 0.3,
    }


def test_equal_ranks_cost_nothing() -> None:
    """One of them has to be named; it costs nothing."""
    found = slowest([pace(0, 0.3, 0.1), pace(1, 0.3, 0.1)])
    assert found is not None
    assert (found["rank"], found["cost"]) == (0, 0.0)


@pytest.mark.parametrize("ranks", [[], [pace(0, 0.3, 0.1)]])
def test_ring_of_one_has_no_slowest_rank(ranks: list[RankPace]) -> None:
    """Nobody waits."""
    assert slowest(ranks) is None


def test_ranks_that_have_not_measured_yet_cost_nothing() -> None:
    """No division by nothing."""
    found = slowest([pace(0, 0.0, 0.0), pace(1, 0.0, 0.0)])
    assert found is not None
    assert found["cost"] == 0.0


def test_average_follows_what_is_new() -> None:
    """Sums become seconds per step; after many steps of another kind, the first ones are forgotten."""
    # GIVEN
    average = MovingAverage()
    average.see(0, 0.0, 0.0)
    assert average.compute is None
    # WHEN
    average.see(10, 10.0, 5.0)
    # THEN
    assert (average.compute, average.wait) == (1.0, 0.5)
    # WHEN the next 200 steps take a tenth
    for number in range(1, 21):
        average.see(10 + 10 * number, 10.0 + number, 5.0 + 0.5 * number)
    # THEN
    assert average.compute == pytest.approx(0.1, abs=0.02)
    # AND nothing new changes nothing
    before = average.compute
    average.see(210, 30.0, 15.0)
    assert average.compute == before
