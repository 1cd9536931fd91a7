"""What of a run's GPU time was training, and which steps were done twice."""

from __future__ import annotations

import pytest

from horovod_node.rank_process.progress import Progress
from horovod_node.ring.accounting import RepeatedSteps, TrainedTime


def test_time_between_steps_counts_for_every_rank() -> None:
    """Forming a ring and waiting after its last step cost GPU time that is not training."""
    # GIVEN
    trained = TrainedTime()

    # WHEN the first step comes after 30 s, three more come every 2 s, and then none
    for now, advances in ((0.0, 0), (30.0, 1), (31.0, 1), (32.0, 2), (34.0, 3), (36.0, 4), (90.0, 4)):
        trained.see(ring=0, ranks=8, advances=advances, now=now)

    # THEN
    assert trained.gpu_seconds == 8 * 6.0


def test_rings_are_counted_with_their_own_size() -> None:
    """From the last step of a ring to the first step of the next one nothing is trained."""
    # GIVEN
    trained = TrainedTime()

    # WHEN
    for ring, ranks, now, advances in ((0, 8, 0.0, 1), (0, 8, 1.0, 2), (0, 8, 3.0, 3), (1, 4, 20.0, 3)):
        trained.see(ring=ring, ranks=ranks, advances=advances, now=now)
    for now, advances in ((21.0, 4), (26.0, 5)):
        trained.see(ring=1, ranks=4, advances=advances, now=now)

    # THEN
    assert trained.gpu_seconds == 8 * 2.0 + 4 * 5.0


def test_a_new_process_of_the_rank_begins_anew() -> None:
    """Counts of a rank that was started again are no steps back, and its start is no training."""
    # GIVEN
    trained = TrainedTime(100.0)

    # WHEN
    for now, advances in ((0.0, 5), (1.0, 6), (2.0, 7), (10.0, 0), (15.0, 1), (17.0, 2)):
        trained.see(ring=0, ranks=2, advances=advances, now=now)

    # THEN
    assert trained.gpu_seconds == 100.0 + 2 * (1.0 + 2.0)


def test_repeated_steps_of_rings_and_attempts_add_up() -> None:
    """What the script tells since the restored checkpoint is added to what earlier attempts lost."""
    # GIVEN
    lost = RepeatedSteps(40, restored=True)

    # WHEN the script loads a checkpoint that knows of 15, loses 5, and rank 0 begins anew
    for told, committed in ((0, None), (15, 100), (20, 130), (0, None), (20, 140)):
        lost.see(Progress(step=100, repeated_steps=told, committed_step=committed))

    # THEN
    assert (lost.count, lost.known) == (45, True)


@pytest.mark.parametrize(("committed", "known"), [(None, False), (7, True)])
def test_a_script_that_tells_nothing_leaves_repeated_steps_unknown(committed: int | None, known: bool) -> None:
    """None at all is not said of a script that could not tell."""
    # GIVEN
    lost = RepeatedSteps()

    # WHEN
    lost.see(Progress(step=9, committed_step=committed))

    # THEN
    assert (lost.count, lost.known) == (0, known)
