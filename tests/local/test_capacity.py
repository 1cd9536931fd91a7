"""Runs that have to look for their nodes: attempts that are refused, in the cloud's words and with real nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from horovod_client import Run, RunStatus
from horovod_local import Faults, LocalCloud, Refusal
from horovod_node import contract
from support.local_cloud.deployment import SETTINGS, Deployment, facts, wait
from support.synthesis import synthesise
from support.waiting import eventually

pytestmark = pytest.mark.local

SECONDS = 8
"""Time limit of each attempt of Spot."""
ZONES = ("eu-west-1a", "eu-west-1b", "eu-west-1c")
NO_SPOT = "There is no Spot capacity available that matches your request. Launching EC2 instance failed."
THROTTLED = "Request limit exceeded. Launching EC2 instance failed."


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The app with short attempts, in a cloud of its own."""
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    short = {"spot_seconds": SECONDS, "spot_zone_seconds": SECONDS, "start_seconds": 120, "launch_seconds": 60}
    synthesise(out, settings={**SETTINGS, **short})
    with LocalCloud(home=tmp_path_factory.mktemp("cloud"), region="eu-west-1") as cloud:
        cloud.deploy(out)
        yield Deployment(cloud=cloud)


@pytest.fixture(autouse=True)
def nothing_is_left(app: Deployment) -> Iterator[None]:
    """After every run, however it ended: no fault, no instance, no process, no lease; the group as it was deployed."""
    before = group_of(app)
    yield
    app.cloud.set_faults(Faults())
    app.assert_nothing_is_left()
    assert group_of(app) == before


def group_of(app: Deployment) -> object:
    """Read what an attempt changes of the group."""
    (group,) = app.cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    return group["MixedInstancesPolicy"], sorted(group["VPCZoneIdentifier"].split(",")), group["DesiredCapacity"]


def looking(run: Run, number: int) -> RunStatus:
    """Wait until the run makes the attempt with this number."""
    return eventually(
        run.status,
        lambda status: status.ended or (status.capacity is not None and status.capacity.number >= number),
    )


@pytest.mark.slow
def test_third_attempt_gets_what_two_were_refused(app: Deployment) -> None:
    """Spot is refused in all zones, then in the first; the second has some. Status and receipt tell EC2's words."""
    # GIVEN no Spot anywhere
    app.cloud.set_faults(Faults(refused=(Refusal(market="spot"),)))
    # WHEN a run looks for it, and a zone has some by the time that its turn comes
    run = app.start("trains_briefly.py", gpus=3)
    first, _ = looking(run, 1), looking(run, 2)
    app.cloud.set_faults(Faults(refused=tuple(Refusal(market="spot", zone=zone) for zone in ZONES if zone != ZONES[1])))
    third = looking(run, 3)
    ended = wait(run)
    # THEN it trained there
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert facts(app.model(run))["ranks"] == 3
    receipt = run.receipt()
    zones = {node["node"]: node["zone"] for node in receipt["nodes"]}
    assert zones[receipt["leader"]] == ZONES[1]
    # AND On-Demand nodes that came in vain are in the receipt, too: they cost
    assert {node["zone"] for node in receipt["nodes"] if node["market"] == contract.SPOT} == {ZONES[1]}
    # AND told where it looked
    assert first.capacity is not None
    assert third.capacity is not None
    assert (first.capacity.number, first.capacity.of, first.capacity.refusal) == (1, 5, "")
    assert first.capacity.attempt == "Spot in any zone"
    assert third.capacity.attempt == f"Spot in {ZONES[1]}"
    assert third.capacity.refusal == NO_SPOT
    told = [(look["words"], look["outcome"], look["said"]) for look in receipt["capacity"]]
    assert told == [
        ("Spot in any zone", "capacity", NO_SPOT),
        (f"Spot in {ZONES[0]}", "capacity", NO_SPOT),
        (f"Spot in {ZONES[1]}", "formed", ""),
    ]


@pytest.mark.slow
def test_quota_passes_over_what_it_would_refuse_too(app: Deployment) -> None:
    """Spot's quota is used up: no zone has another one, so On-Demand follows at once."""
    # GIVEN
    app.cloud.set_faults(Faults(refused=(Refusal(market="spot", why="quota"),)))
    # WHEN
    run = app.start("trains_briefly.py", gpus=2)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    receipt = run.receipt()
    assert [(look["words"], look["outcome"]) for look in receipt["capacity"]] == [
        ("Spot in any zone", "quota"),
        ("On-Demand in any zone", "formed"),
    ]
    assert {node["market"] for node in receipt["nodes"]} == {contract.ON_DEMAND}


@pytest.mark.slow
def test_quota_of_everything_ends_the_run_with_its_code(app: Deployment) -> None:
    """With no quota at all nothing else is tried, and the cause says which quotas to ask for."""
    # GIVEN
    app.cloud.set_faults(Faults(refused=(Refusal(why="quota"),)))
    # WHEN
    run = app.start("trains_briefly.py", gpus=1)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_RING_NOT_FORMED)
    assert "You have requested more vCPU capacity than your current vCPU limit" in str(ended.cause)
    assert "L-DB2E81BA (Running On-Demand G and VT instances)" in str(ended.cause)
    assert [look["outcome"] for look in run.receipt()["capacity"]] == ["quota"]


@pytest.mark.slow
def test_throttling_is_not_read_as_no_capacity(app: Deployment) -> None:
    """EC2 was asked too often, which says nothing of its capacity: the same attempt goes on, and gets its nodes."""
    # GIVEN
    app.cloud.set_faults(Faults(refused=(Refusal(market="spot", why="throttling"),)))
    # WHEN EC2 answers again after the attempt was given up once
    run = app.start("trains_briefly.py", gpus=2)
    repeated = eventually(run.status, lambda status: status.capacity is not None and status.capacity.refusal != "")
    app.cloud.set_faults(Faults())
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert repeated.capacity is not None
    assert (repeated.capacity.number, repeated.capacity.refusal) == (1, THROTTLED)
    assert [(look["words"], look["outcome"]) for look in run.receipt()["capacity"]] == [
        ("Spot in any zone", "throttling"),
        ("Spot in any zone", "formed"),
    ]


@pytest.mark.slow
def test_every_attempt_is_told_when_none_got_nodes(app: Deployment) -> None:
    """No capacity anywhere: the cause names every attempt, its market, its zone and EC2's words."""
    # GIVEN
    app.cloud.set_faults(Faults(refused=(Refusal(),)))
    # WHEN
    run = app.start("trains_briefly.py", gpus=1)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_RING_NOT_FORMED)
    cause = str(ended.cause)
    told = ["Spot in any zone", *(f"Spot in {zone}" for zone in ZONES), "On-Demand in any zone"]
    assert all(f"Attempt {number} of 5, {words}, " in cause for number, words in enumerate(told, 1)), cause
    assert "We currently do not have sufficient g5.4xlarge capacity in the Availability Zone you requested" in cause


@pytest.mark.slow
def test_lost_leader_is_replaced_and_the_run_goes_on(app: Deployment) -> None:
    """The run starts again on the node that is left, with a new leader, and says so while it goes on and in the end."""
    # GIVEN a run that trains on two nodes
    run = app.start("steps_only.py", gpus=2, hyperparameters={"seconds": 15}, max_restarts=1)
    eventually(run.status, lambda status: status.stage == contract.STAGE_TRAINING or status.ended)
    leader = app.leader_of(run)
    others = {instance.instance_id for instance in app.cloud.instances()} - {leader}
    (pid,) = [instance.pid for instance in app.cloud.instances() if instance.instance_id == leader]
    assert pid is not None
    # WHEN the leader's agent dies
    os.kill(pid, signal.SIGKILL)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    assert [(lost.attempt, lost.error) for lost in ended.restarts] == [(1, contract.ERROR_LEADER_LOST)]
    receipt = run.receipt()
    assert (receipt["attempts"], len(receipt["restarts"])) == (2, 1)
    assert leader in receipt["restarts"][0]["cause"]
    nodes = {node["node"]: node for node in receipt["nodes"]}
    assert {leader, *others} < nodes.keys()
    assert receipt["leader"] != leader
    assert nodes[leader]["until"] < receipt["times"]["ring_at"]


@pytest.mark.slow
def test_run_ends_when_it_was_lost_more_often_than_it_may(app: Deployment) -> None:
    """After the last restart the loss of the leader is the run's end."""
    # GIVEN
    run = app.start("trains_long.py", gpus=1, max_restarts=1)
    # WHEN the leader of each attempt dies while it trains
    for attempt in (1, 2):
        leader = eventually(
            lambda attempt=attempt: app.item(contract.leader_key(app.fleet_of(run), run.run_id, attempt))
        )
        assert leader is not None
        eventually(
            run.status,
            lambda status, before=attempt - 1: (
                status.stage == contract.STAGE_TRAINING and len(status.restarts) == before
            ),
        )
        (pid,) = [
            instance.pid for instance in app.cloud.instances() if instance.instance_id == leader[contract.NODE]["S"]
        ]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_LEADER_LOST)
    assert [lost.attempt for lost in ended.restarts] == [1]
