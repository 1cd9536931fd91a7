"""The training helper in rings of real agents: nodes die and come, leaders are stopped, and the training goes on."""

from __future__ import annotations

import pytest

from support.node.rings import Ring
from support.node.training_proofs import EPOCH_OF_TWO, HelpedRing, assert_callbacks_saw_one_training, progress

pytestmark = pytest.mark.ring


@pytest.fixture
def helped(ring: Ring) -> HelpedRing:
    """A ring that trains with the Keras helper."""
    return HelpedRing(ring=ring, script="train_helped.py")


@pytest.mark.slow
def test_static_ring_divides_an_epoch(helped: HelpedRing) -> None:
    """Two ranks need half the steps, end with the same weights, and say how far they are."""
    # GIVEN / WHEN
    ring = helped.ring
    helped.begin(gpus=2, nodes=2, epochs=4, slow_rank=1)
    trained = ring.end()
    # THEN
    assert trained["steps"] == 4 * EPOCH_OF_TWO
    found = ring.facts()
    assert (found["size"], found["difference"], found["steps"]) == (2, 0.0, 4 * EPOCH_OF_TWO)
    assert found["accuracy"] > 0.9
    # AND the epochs' results are the same on both
    results = [[entry["logs"] for entry in agent.journal("epoch")] for agent in ring.agents]
    assert len(results[0]) == 4
    assert results[0] == results[1]
    # AND who waits for whom can be told
    reports = [progress(ring.agents[0], 0), progress(ring.agents[1], 1)]
    for report in reports:
        assert (report.epoch, report.epochs, report.step, report.steps) == (4, 4, 4 * EPOCH_OF_TWO, 4 * EPOCH_OF_TWO)
        assert (report.repeated_steps, report.advances >= 4 * EPOCH_OF_TWO) == (0, True)
        assert report.samples_per_second is not None
        assert report.loss is not None
        assert report.compute_seconds_per_step is not None
        assert report.wait_seconds_per_step is not None
    assert reports[1].compute_seconds_per_step > reports[0].compute_seconds_per_step
    assert reports[1].wait_seconds_per_step < reports[0].wait_seconds_per_step


def test_killed_node_costs_at_most_one_commit(helped: HelpedRing) -> None:
    """One of three nodes dies in mid-epoch: the epoch goes on, and callbacks saw one training."""
    helped.assert_killed_node_costs_at_most_one_commit()
    assert_callbacks_saw_one_training(helped.ring)


@pytest.mark.slow
def test_killed_node_costs_at_most_one_commit_of_two_optimizers(ring: Ring) -> None:
    """Both are committed, and go back together: the ranks' weights are equal, and learn."""
    helped = HelpedRing(ring=ring, script="train_helped.py", hyperparameters={"two_optimizers": 1})
    helped.assert_killed_node_costs_at_most_one_commit()


@pytest.mark.slow
def test_node_that_comes_later_is_taken_in_without_a_loss(helped: HelpedRing) -> None:
    """A third node finds the others in mid-training, takes over their state, and no step is done twice."""
    helped.assert_late_node_is_taken_in_without_a_loss()


def test_leader_that_is_told_to_stop_leaves_a_checkpoint(helped: HelpedRing) -> None:
    """At the cost ceiling rank 0 hears SIGTERM first: it writes where it is, without asking the others."""
    helped.assert_told_leader_leaves_a_checkpoint(["checkpoint.json", "values.npz"])
