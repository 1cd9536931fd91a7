"""The training helper in rings of real agents: nodes die and come, leaders are stopped, and the training goes on."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from horovod_node.progress import Progress
from node.rings import Agent, Ring, wait_for

pytestmark = pytest.mark.ring

COMMIT_EVERY = 5
EXAMPLES, BATCH = 1437, 16
"""Digits that are not for the test, and what a rank takes of them in a step."""


def begin(
    ring: Ring,
    *,
    gpus: int,
    min_gpus: int | None = None,
    nodes: int,
    python: str = sys.executable,
    **hyperparameters: object,
) -> None:
    """Submit the script, form the ring and begin the training."""
    ring.submit(gpus=gpus, min_gpus=min_gpus, entry_point="train_helped.py", **hyperparameters)
    ring.start(nodes=nodes, python=python)
    ring.begin()


def progress(agent: Agent, rank: int = 0) -> Progress:
    """Read what a rank reported last."""
    return Progress.read(agent.ml_root / "ranks" / f"rank-{rank}.progress")


@pytest.mark.slow
def test_static_ring_divides_an_epoch(ring: Ring) -> None:
    """Two ranks need half the steps, end with the same weights, and say how far they are."""
    # GIVEN / WHEN
    begin(ring, gpus=2, nodes=2, epochs=4, slow_rank=1)
    trained = ring.end()
    # THEN
    an_epoch = -(-(EXAMPLES // 2) // BATCH)
    assert trained["steps"] == 4 * an_epoch
    found = ring.facts()
    assert (found["size"], found["difference"], found["steps"]) == (2, 0.0, 4 * an_epoch)
    assert found["accuracy"] > 0.9
    # AND the epochs' results are the same on both
    results = [[entry["logs"] for entry in agent.journal("epoch")] for agent in ring.agents]
    assert len(results[0]) == 4
    assert results[0] == results[1]
    # AND who waits for whom can be told
    reports = [progress(ring.agents[0], 0), progress(ring.agents[1], 1)]
    for report in reports:
        assert (report.epoch, report.epochs, report.step, report.steps) == (4, 4, 4 * an_epoch, 4 * an_epoch)
        assert (report.repeated_steps, report.advances >= 4 * an_epoch) == (0, True)
        assert report.samples_per_second is not None
        assert report.loss is not None
        assert report.compute_seconds_per_step is not None
        assert report.wait_seconds_per_step is not None
    assert reports[1].compute_seconds_per_step > reports[0].compute_seconds_per_step
    assert reports[1].wait_seconds_per_step < reports[0].wait_seconds_per_step


def test_killed_node_costs_at_most_one_commit(ring: Ring) -> None:
    """One of three nodes dies in mid-epoch: the epoch goes on with what is left of it, divided by two."""
    assert_killed_node_costs_at_most_one_commit(ring)


def assert_killed_node_costs_at_most_one_commit(ring: Ring, *, python: str = sys.executable) -> None:
    """The whole of the test, under any Keras."""
    # GIVEN a third node that stands still in mid-epoch, so that it is there when it dies, and the others wait for it
    (ring.folder / "node-3").mkdir()
    (ring.folder / "node-3" / "stands-still-at").write_text("12")
    begin(ring, gpus=3, min_gpus=2, nodes=3, python=python, epochs=4, commit_every=COMMIT_EVERY)
    ring.agents[0].until_step(12)
    # WHEN
    ring.agents[2].kill()
    # THEN
    ring.end()
    taken = ring.agents[0].steps()
    repeated = len(taken) - len(set(taken))
    assert repeated <= COMMIT_EVERY
    assert progress(ring.agents[0]).repeated_steps == repeated
    found = ring.facts()
    assert (found["size"], found["difference"]) == (2, 0.0)
    assert found["accuracy"] > 0.9
    # AND the first epoch was gone through once, by three and then by two
    first = {entry["step"]: entry["size"] for entry in ring.agents[0].journal("step") if entry["epoch"] == 0}
    assert set(first.values()) == {2, 3}
    assert EXAMPLES - 3 * BATCH < sum(size * BATCH for size in first.values()) < EXAMPLES + 3 * BATCH
    # AND callbacks saw one training
    assert len(ring.agents[0].journal("begin")) == len(ring.agents[0].journal("end")) == 1
    assert [entry["epoch"] for entry in ring.agents[0].journal("epoch")] == [0, 1, 2, 3]


@pytest.mark.slow
def test_node_that_comes_later_is_taken_in_without_a_loss(ring: Ring) -> None:
    """A third node finds the others in mid-training, takes over their state, and no step is done twice."""
    # GIVEN a ring of two that commits by the clock
    begin(ring, gpus=3, min_gpus=2, nodes=2, epochs=8)
    ring.agents[0].until_step(5)
    # WHEN
    ring.start(nodes=1)
    # THEN
    ring.end()
    taken = ring.agents[0].steps()
    assert len(taken) == len(set(taken))
    assert {entry["size"] for entry in ring.agents[0].journal("step")} == {2, 3}
    assert min(ring.agents[2].steps()) > 5
    found = ring.facts()
    assert (found["size"], found["difference"]) == (3, 0.0)
    assert found["accuracy"] > 0.9


def test_leader_that_is_told_to_stop_leaves_a_checkpoint(ring: Ring) -> None:
    """At the cost ceiling rank 0 hears SIGTERM first: it writes where it is, without asking the others."""
    # GIVEN
    begin(ring, gpus=2, nodes=2, epochs=50)
    ring.agents[0].until_step(10)
    # WHEN
    os.kill(ring.agents[0].rank(), signal.SIGTERM)
    # THEN
    checkpoints = ring.agents[0].ml_root / "checkpoints"
    wait_for("a checkpoint", lambda: any(path.name.isdecimal() for path in checkpoints.iterdir()))
    (checkpoint,) = [path for path in checkpoints.iterdir() if path.name.isdecimal()]
    assert int(checkpoint.name) == max(ring.agents[0].steps()) >= 10
    assert sorted(path.name for path in checkpoint.iterdir()) == ["checkpoint.json", "values.npz"]
