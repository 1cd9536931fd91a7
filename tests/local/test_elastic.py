"""
Runs that lose and gain nodes: real Horovod in the local cloud, compared with a run that nothing disturbed.

Each ends with a model as good as that one's, repeats no more steps than its commits or checkpoints allow, and leaves no
instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from horovod_client import Run
from horovod_local import Faults, Refusal
from horovod_node import contract
from support.local_cloud.deployment import facts, wait
from support.local_cloud.elastic_deployment import ElasticDeployment, elastic_deployment
from support.waiting import eventually

pytestmark = [pytest.mark.local, pytest.mark.ring]

COMMIT_EVERY = 5
CHECKPOINT_EVERY = 10
ACCURACY_MARGIN = 0.04
"""Other batches, and another ring's size in between, lead to other weights; of 360 test images some 14 may differ."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ElasticDeployment]:
    """One deployment for all runs of this file."""
    with elastic_deployment(tmp_path_factory.mktemp("elastic"), spot_seconds=20, spot_zone_seconds=20) as lab:
        yield lab


@pytest.fixture(autouse=True)
def nothing_is_left(lab: ElasticDeployment) -> Iterator[None]:
    """After every run, however it ended: no instance, no process, no lease."""
    yield
    lab.cloud.set_faults(Faults())
    lab.assert_nothing_is_left()


@pytest.fixture(scope="module")
def undisturbed(lab: ElasticDeployment) -> float:
    """The accuracy of a run of three GPUs that nothing disturbs."""
    run = start(lab)
    assert wait(run).state == "SUCCEEDED", run.status()
    receipt = run.receipt()
    assert (receipt["ring"]["resets"], receipt["ring"].get("repeated_steps", 0)) == (0, 0), receipt["ring"]
    return float(facts(lab.model(run))["accuracy"])


def start(
    lab: ElasticDeployment, *, gpus: int = 3, min_gpus: int = 1, step_seconds: float = 0.1, **options: Any
) -> Run:
    hyperparameters = {
        "commit-every": COMMIT_EVERY,
        "checkpoint-every": CHECKPOINT_EVERY,
        "step-seconds": step_seconds,
    }
    return lab.start("learns_digits.py", gpus=gpus, min_gpus=min_gpus, hyperparameters=hyperparameters, **options)


def succeeds(lab: ElasticDeployment, run: Run, undisturbed: float) -> dict[str, Any]:
    """Wait for the run's end, compare its model, and give its receipt."""
    ended = wait(run)
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert facts(lab.model(run))["accuracy"] >= undisturbed - ACCURACY_MARGIN
    return run.receipt()


@pytest.mark.slow
def test_killed_worker_costs_one_commit(lab: ElasticDeployment, undisturbed: float) -> None:
    """One of three nodes loses its power in mid-epoch: the others go on from their last commit."""
    # GIVEN
    run = start(lab)
    lab.wait_for_step(run, 12, nodes=3)
    # WHEN
    lab.cloud.lose(lab.spots()[0].instance_id)
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert receipt["attempts"] == 1
    assert receipt["ring"]["smallest"] == 2
    assert receipt["ring"]["resets"] >= 1
    assert receipt["ring"]["repeated_steps"] <= COMMIT_EVERY


@pytest.mark.slow
def test_interrupted_node_leaves_in_order(lab: ElasticDeployment, undisturbed: float) -> None:
    """EC2 gives notice: the node leaves at the next commit, no step is repeated, and the group replaces it."""
    # GIVEN
    run = start(lab)
    lab.wait_for_step(run, 12, nodes=3)
    doomed = lab.spots()[0].instance_id
    # WHEN
    lab.cloud.interrupt(doomed, notice_seconds=25)
    # THEN
    eventually(lambda: lab.nodes(run)[doomed].state == contract.NODE_LEFT or run.status().ended)
    assert lab.nodes(run)[doomed].interruption == contract.INTERRUPTION_NOTICE
    receipt = succeeds(lab, run, undisturbed)
    (interruption,) = receipt["ring"]["interruptions"]
    assert (interruption["node"], interruption["kind"], interruption["left_in_order"]) == (
        doomed,
        contract.INTERRUPTION_NOTICE,
        True,
    )
    assert receipt["ring"]["repeated_steps"] == 0


@pytest.mark.slow
def test_node_that_comes_later_is_taken_in(lab: ElasticDeployment, undisturbed: float) -> None:
    """Spot has only one GPU at first: the run begins with two, and grows when there is a third."""
    # GIVEN
    lab.cloud.set_faults(
        Faults(
            refused=(
                Refusal(market="spot", zone="eu-west-1a"),
                Refusal(market="spot", zone="eu-west-1b"),
                Refusal(market="spot", zone="eu-west-1c"),
            )
        )
    )
    run = start(lab, min_gpus=1)
    lab.wait_for_step(run, 5, nodes=1)
    # WHEN
    lab.cloud.set_faults(Faults())
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert (receipt["gpus"], receipt["ring"]["smallest"], receipt["ring"]["largest"]) == (1, 1, 3)
    assert receipt["ring"]["repeated_steps"] == 0


@pytest.mark.slow
def test_lost_leader_begins_anew_from_the_newest_checkpoint(lab: ElasticDeployment, undisturbed: float) -> None:
    """The leader's instance is gone: the surviving nodes begin the run anew where its newest checkpoint is."""
    # GIVEN
    run = start(lab, max_restarts=1)
    lab.wait_for_step(run, 32, nodes=3)
    leader = lab.leader(run)
    survivors = {spot.instance_id for spot in lab.spots()}
    kept = lab.wait_for_checkpoint(run)
    # WHEN
    lab.cloud.lose(leader.instance_id)
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert receipt["attempts"] == 2
    assert survivors <= set(lab.nodes(run, attempt=2))
    assert receipt["leader"] != leader.instance_id
    assert receipt["ring"]["resumed"]["run"] == run.name
    assert receipt["ring"]["resumed"]["step"] >= kept


@pytest.mark.slow
def test_loss_of_all_spot_nodes_at_once(lab: ElasticDeployment, undisturbed: float) -> None:
    """All Spot nodes lose their power in one moment: the leader goes on, and the group brings others."""
    # GIVEN
    run = start(lab)
    lab.wait_for_step(run, 12, nodes=3)
    # WHEN
    for spot in lab.spots():
        lab.cloud.lose(spot.instance_id)
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert (receipt["attempts"], receipt["ring"]["smallest"]) == (1, 1)
    assert receipt["ring"]["repeated_steps"] <= 2 * COMMIT_EVERY


@pytest.mark.slow
def test_static_run_begins_anew_when_a_node_is_lost(lab: ElasticDeployment, undisturbed: float) -> None:
    """A ring that cannot change loses a node: all of it begins anew from the newest checkpoint, leader included."""
    # GIVEN
    # The ledger hears of steps and checkpoints seconds later: a faster training would be over by then.
    run = start(lab, min_gpus=3, max_restarts=1, step_seconds=0.4)
    lab.wait_for_step(run, 32, nodes=3)
    leader = lab.leader(run)
    kept = lab.wait_for_checkpoint(run)
    # WHEN
    lab.cloud.lose(lab.spots()[0].instance_id)
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert (receipt["attempts"], receipt["leader"], receipt["ring"]["elastic"]) == (2, leader.instance_id, False)
    assert receipt["ring"]["resumed"]["step"] >= kept


@pytest.mark.slow
def test_notice_in_a_static_ring_costs_no_step(lab: ElasticDeployment, undisturbed: float) -> None:
    """EC2 gives notice to a node that the ring cannot do without: its last checkpoint is written before it goes."""
    # GIVEN
    run = start(lab, min_gpus=3, max_restarts=1)
    nodes = lab.wait_for_step(run, 15, nodes=3)
    doomed = lab.spots()[0].instance_id
    # WHEN
    lab.cloud.interrupt(doomed, notice_seconds=30)
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert receipt["attempts"] == 2
    assert f"EC2 interrupts node {doomed}" in receipt["restarts"][0]["cause"]
    # Not a multiple of the checkpoints' interval, but the very last step.
    assert receipt["ring"]["resumed"]["step"] >= min(node.step for node in nodes.values())
    (lost,) = [node for node in receipt["nodes"] if node["node"] == doomed]
    assert lost["until"] < receipt["times"]["ring_at"]


@pytest.mark.slow
def test_capacity_refused_twice(lab: ElasticDeployment, undisturbed: float) -> None:
    """There is no Spot at first, neither anywhere nor in the first zone: the run trains with what comes then."""
    # GIVEN
    lab.cloud.set_faults(Faults(refused=(Refusal(market="spot"),)))
    run = start(lab, min_gpus=3)
    eventually(run.status, lambda status: status.ended or (status.capacity is not None and status.capacity.number >= 3))
    # WHEN
    lab.cloud.set_faults(Faults())
    # THEN
    receipt = succeeds(lab, run, undisturbed)
    assert [attempt["outcome"] for attempt in receipt["capacity"]][:2] == ["capacity", "capacity"]
    assert receipt["gpus"] == 3
