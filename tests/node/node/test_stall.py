"""When ranks stand still, and where."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from horovod_node.attempt.last_seen import LastSeen
from horovod_node.ledger.ledger import NodeItem
from horovod_node.node.stall import StepWatch, find_place

STACK = """Current thread 0x00007f8a2f5fe740 (most recent call first):
  File "/venv/lib/python3.11/site-packages/tensorflow/python/eager/execute.py", line 53 in quick_execute
  File "/opt/ml/code/nets/loop.py", line 31 in run
  File "/opt/ml/code/train.py", line 9 in <module>
  File "<frozen runpy>", line 88 in _run_code
"""


def watch() -> StepWatch:
    """Watch ranks that started at 100."""
    return StepWatch(first_step_seconds=60, stall_seconds=10, now=100)


def test_first_step_may_take_its_own_time() -> None:
    """Until the first advance only the limit for the first step holds."""
    # GIVEN
    steps = watch()
    # WHEN
    steps.see({0: 0, 1: 0}, now=160)
    # THEN
    assert [steps.stalled(now=160), steps.stalled(now=160.1)] == [[], [0, 1]]


def test_a_part_of_the_limit_tells_who_stands_still_with_others() -> None:
    """Another node has found a rank that stands still: a rank that steps is none of those that wait for it."""
    # GIVEN
    steps = watch()
    steps.see({0: 1, 1: 1}, now=110)
    # WHEN
    steps.see({0: 1, 1: 2}, now=116)
    # THEN
    assert [steps.stalled(now=117), steps.stalled(now=117, part=0.5)] == [[], [0]]


def test_each_rank_is_judged_by_itself() -> None:
    """A rank that steps does not excuse one that does not."""
    # GIVEN
    steps = watch()
    steps.see({0: 1, 1: 1}, now=110)
    # WHEN
    steps.see({0: 2, 1: 1}, now=119)
    # THEN
    assert [steps.stalled(now=120), steps.stalled(now=121)] == [[], [1]]
    assert steps.silent_seconds(1, now=121) == 11


def test_rank_that_ended_is_not_judged() -> None:
    """Ranks end at different times; only those that run can stand still."""
    # GIVEN
    steps = watch()
    steps.see({0: 1, 1: 1}, now=110)
    # WHEN
    steps.see({1: 5}, now=121)
    # THEN
    assert steps.stalled(now=125) == []


def test_rank_is_judged_from_its_rings_beginning() -> None:
    """A rank that waited in standby has all of its time once its ring is formed, however long ago it was started."""
    # GIVEN a rank that is not judged yet
    steps = watch()
    steps.see({}, now=500)
    # WHEN
    steps.begin(1, advances=0, now=500)
    steps.see({1: 0}, now=501)
    # THEN
    assert steps.silent_seconds(1, now=505) == 5
    assert [steps.stalled(now=560), steps.stalled(now=560.1)] == [[], [1]]


def test_rank_that_trained_before_is_judged_by_its_next_step() -> None:
    """After a reset only a step beyond those that were taken before counts, and the time of the reset does not."""
    # GIVEN
    steps = watch()
    steps.see({1: 7}, now=110)
    steps.see({}, now=115)
    # WHEN
    steps.begin(1, advances=7, now=150)
    steps.see({1: 7}, now=155)
    # THEN
    assert [steps.stalled(now=160), steps.stalled(now=160.1)] == [[], [1]]
    # WHEN
    steps.see({1: 8}, now=161)
    # THEN
    assert steps.stalled(now=171) == []


@given(st.lists(st.tuples(st.floats(0.1, 9.9), st.integers(1, 3)), max_size=30))
def test_ranks_that_step_in_time_never_stall(pauses: list[tuple[float, int]]) -> None:
    """However irregular, steps within the limit are no stall; the first missing one is."""
    # GIVEN
    steps = watch()
    now, count = 101.0, 1
    steps.see({0: count}, now=now)
    # WHEN
    for pause, advance in pauses:
        now += pause
        assert steps.stalled(now=now) == []
        count += advance
        steps.see({0: count}, now=now)
    # THEN
    assert steps.stalled(now=now + 10.1) == [0]


def test_place_is_the_scripts_innermost_line() -> None:
    """A rank that waits in TensorFlow is told by the script's line that called it."""
    assert find_place(STACK, code=Path("/opt/ml/code")) == ("nets/loop.py:31 in run", False)


def test_place_in_the_script_itself_is_suspicious() -> None:
    """A rank whose innermost frame is the script's does not wait for others."""
    # GIVEN
    stack = STACK.replace("/venv/lib/python3.11/site-packages/tensorflow/python/eager/", "/opt/ml/code/")
    # WHEN / THEN
    assert find_place(stack, code=Path("/opt/ml/code")) == ("execute.py:53 in quick_execute", True)


def test_place_may_be_unknown() -> None:
    """A rank that could not answer has no place."""
    assert find_place("", code=Path("/opt/ml/code")) == ("", False)


def test_silence_is_measured_by_ones_own_clock() -> None:
    """A clock that is wrong on another node changes nothing; a sign of life that stays the same does."""
    # GIVEN
    silence = LastSeen()

    def item(seen_at: int) -> NodeItem:
        return NodeItem(
            id="a", address="", gpus=1, instance_type="", zone="", market="", state="", step=0, seen_at=seen_at
        )

    # WHEN
    silence.see([item(5)], now=1000)
    silence.see([item(9)], now=1010)
    silence.see([item(9)], now=1020)
    # THEN
    assert [silence.seconds("a", now=1025), silence.seconds("b", now=1025)] == [15, 0]
