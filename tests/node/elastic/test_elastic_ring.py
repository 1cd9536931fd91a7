"""Elastic rings of real agents and real Horovod ranks: nodes die, vanish and join, and the training goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.rank_process.preflight import NOT_ELASTIC
from support.node.rings import Agent, Ring

pytestmark = pytest.mark.ring

COMMIT_EVERY = 5


def repeated(agent: Agent) -> int:
    """Count the steps that the node took more than once."""
    taken = agent.steps()
    return len(taken) - len(set(taken))


def submit(ring: Ring, *, gpus: int = 3, min_gpus: int = 1, steps: int = 80, **hyperparameters: object) -> None:
    ring.submit(
        gpus=gpus,
        min_gpus=min_gpus,
        entry_point="train_elastic.py",
        steps=steps,
        commit_every=COMMIT_EVERY,
        **hyperparameters,
    )


def sizes(entries: Sequence[dict[str, Any]]) -> list[int]:
    """List the sizes of the ring, one for each change."""
    found: list[int] = []
    for entry in entries:
        if not found or found[-1] != entry["size"]:
            found.append(entry["size"])
    return found


@pytest.mark.slow
def test_undisturbed_ring_trains_to_its_end(ring: Ring) -> None:
    """Without faults an elastic ring is a ring: every step once, the model saved, everybody released."""
    # GIVEN
    submit(ring, gpus=2, steps=20)
    # WHEN
    ring.start(nodes=2)
    ring.begin()
    trained = ring.end()
    # THEN
    assert (trained["ranks"], trained["steps"]) == (2, 20)
    ring_life = {key: value for key, value in trained["ring"].items() if key != "slowest"}
    assert ring_life == {"elastic": True, "resets": 0, "smallest": 2, "largest": 2, "interruptions": []}
    assert ring.facts()["steps"] == 20
    assert [agent.steps() for agent in ring.agents] == [list(range(1, 21))] * 2
    # AND the other node left when the model was being saved
    assert ring.agents[1].exit_code() == contract.EXIT_PART_OVER
    # WHEN
    ring.release()
    # THEN
    assert ring.agents[0].exit_code() == contract.EXIT_RELEASED
    assert [agent.left() for agent in ring.agents] == [[], []]


@pytest.mark.slow
def test_killed_node_costs_at_most_one_commit(ring: Ring) -> None:
    """One of three nodes dies in mid-training: the other two go on from their last commit."""
    # GIVEN
    submit(ring, steps=60)
    ring.start(nodes=3)
    ring.begin()
    ring.agents[0].until_step(12)
    # WHEN
    ring.agents[2].kill()
    # THEN
    trained = ring.end()
    assert (trained["ranks"], trained["steps"]) == (2, 60)
    assert (trained["ring"]["resets"], trained["ring"]["smallest"]) == (1, 2)
    assert sizes(ring.agents[0].journal()) == [3, 2]
    assert repeated(ring.agents[0]) <= COMMIT_EVERY
    assert sorted(set(ring.agents[0].steps())) == list(range(1, 61))


@pytest.mark.slow
def test_node_that_comes_later_is_taken_in(ring: Ring) -> None:
    """A ring begins with what there is, and grows when another node comes, without a step done twice."""
    # GIVEN a ring of two that may have three
    submit(ring, min_gpus=2, steps=40, until_size=3)
    ring.start(nodes=2)
    assert ring.begin()["gpus"] == 2
    ring.agents[0].until_step(5)
    # WHEN
    ring.start(nodes=1)
    # THEN
    trained = ring.end()
    assert (trained["ranks"], trained["ring"]["largest"]) == (3, 3)
    assert sizes(ring.agents[0].journal()) == [2, 3]
    assert repeated(ring.agents[0]) == 0


@pytest.mark.slow
def test_rank_that_dies_is_replaced_on_its_own_node(ring: Ring) -> None:
    """A rank that is killed costs its node a pause, and comes back."""
    # GIVEN
    submit(ring, gpus=2, steps=40, die_at_step=10, until_size=2)
    # WHEN
    ring.start(nodes=2)
    ring.begin()
    # THEN
    trained = ring.end()
    assert sizes(ring.agents[0].journal()) == [2, 1, 2]
    assert trained["ranks"] == 2
    assert repeated(ring.agents[0]) <= COMMIT_EVERY


def test_without_its_leader_nobody_trains_on(ring: Ring) -> None:
    """The leader dies with its ranks: the others' ranks end, and their agents wait for what becomes of the run."""
    # GIVEN
    submit(ring, min_gpus=2, steps=100_000)
    ring.start(nodes=3)
    ring.begin()
    ring.agents[1].until_step(5)
    # WHEN
    ring.agents[0].kill()
    # THEN
    for agent in ring.agents[1:]:
        assert agent.left(agent.process.pid) == [agent.process.pid]
    # WHEN the run begins anew
    ring.begin_anew()
    # THEN both take part in the same processes, one of them leads
    formed = ring.asked(contract.TASK_RING)
    assert (formed["gpus"], formed["leader"]["node"] in ("node-2", "node-3")) == (2, True), formed
    # WHEN
    ring.release()
    # THEN
    assert [agent.exit_code() for agent in ring.agents[1:]] == [contract.EXIT_RELEASED] * 2
    assert [agent.left() for agent in ring.agents] == [[], [], []]


def test_script_that_is_not_elastic_is_refused(ring: Ring) -> None:
    """A script that would die with the first lost node is told so before the ring forms."""
    # GIVEN
    ring.submit(gpus=2, min_gpus=1, entry_point="train_digits.py")
    # WHEN
    ring.start(nodes=1)
    refused = ring.asked(contract.TASK_RING)
    # THEN
    assert refused["error"] == contract.ERROR_PREFLIGHT
    assert refused["cause"] == f"train_digits.py was not started. {NOT_ELASTIC}"
    assert ring.agents[0].exit_code() == contract.EXIT_PREFLIGHT
