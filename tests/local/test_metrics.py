"""What the reaper and the leader report, read back from CloudWatch, and the fleet that must be left alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cdk_horovod.termination.reaper_definition import METRIC_CAPACITY_WITHOUT_LEASE, METRIC_REAPED
from horovod_client import Run
from horovod_client.run import STOPPED_ERROR
from horovod_local import ApiFault
from horovod_local.shared.faults import WORKFLOW
from horovod_node import contract
from support.faults.lab import ONE, REAPER, TWO, Lab, deployed_lab, receipt_of, until
from support.local_cloud.deployment import wait
from support.receipts import validate_receipt
from support.waiting import SECONDS

pytestmark = pytest.mark.local

SOME_LOOKS = 3 * REAPER
"""Seconds in which the reaper looks at least twice."""

NAMES = (METRIC_REAPED, METRIC_CAPACITY_WITHOUT_LEASE, contract.METRIC_CEILING_USED)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with deployed_lab(tmp_path_factory) as lab:
        yield lab


@pytest.fixture
def lab(deployed: Lab) -> Iterator[Lab]:
    """The lab at rest, before and after."""
    yield deployed
    deployed.heal()
    assert until(SECONDS, lambda: all(is_free(deployed, fleet) for fleet in (ONE, TWO)))


def test_nothing_is_put_at_rest(lab: Lab) -> None:
    """The reaper looks, finds nothing and says nothing."""
    assert falls_silent(lab)


def test_capacity_without_a_lease_goes_and_is_reported(lab: Lab) -> None:
    """Somebody raises a group by hand: the reaper returns it to zero and says how much there was."""
    # GIVEN
    before = {name: len(put(lab, name)) for name in NAMES}
    # WHEN
    raise_by_hand(lab, TWO, capacity=2)
    # THEN it takes the fleet, empties it and gives it back
    assert until(SECONDS, lambda: len(put(lab, METRIC_REAPED)) > before[METRIC_REAPED])
    assert until(SECONDS, lambda: is_free(lab, TWO))
    found = put(lab, METRIC_CAPACITY_WITHOUT_LEASE)[before[METRIC_CAPACITY_WITHOUT_LEASE] :]
    assert found[0] == 2
    assert set(put(lab, METRIC_REAPED)) == {1}
    assert len(put(lab, contract.METRIC_CEILING_USED)) == before[contract.METRIC_CEILING_USED]
    # AND says nothing more
    assert falls_silent(lab)


@pytest.mark.slow
def test_fleet_of_a_stopped_run_is_reaped(lab: Lab) -> None:
    """The clean-up does not come: the reaper empties the fleet, reports it and writes the receipt."""
    # GIVEN
    run = lab.start(gpus=2)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    lab.switch("clean-up", on=False)
    before = {name: len(put(lab, name)) for name in NAMES}
    # WHEN
    run.stop()
    # THEN
    assert until(SECONDS, lambda: is_free(lab, TWO))
    assert until(SECONDS, lambda: len(put(lab, METRIC_REAPED)) > before[METRIC_REAPED])
    assert put(lab, METRIC_CAPACITY_WITHOUT_LEASE)[before[METRIC_CAPACITY_WITHOUT_LEASE]] == 2
    # The reaper leaves the accounts to the clean-up, which it starts.
    receipt = receipt_of(run)
    assert (receipt["written_by"], receipt["outcome"], receipt["error"]) == ("reaper", "failed", STOPPED_ERROR)
    validate_receipt(receipt)
    assert run.status().stage == contract.STAGE_FAILED


@pytest.mark.slow
def test_price_of_a_running_run_is_reported(lab: Lab) -> None:
    """Of a run with a ceiling the leader tells how much of it is used; the reaper leaves its fleet alone."""
    # GIVEN a run that may cost what its ring costs in minutes
    before = {name: len(put(lab, name)) for name in NAMES}
    run = lab.app.start("steps_only.py", gpus=2, max_cost_usd=0.1)
    # WHEN the leader has told twice
    told = before[contract.METRIC_CEILING_USED] + 2
    assert until(SECONDS, lambda: len(put(lab, contract.METRIC_CEILING_USED)) >= told)
    used = put(lab, contract.METRIC_CEILING_USED)[told - 2 :]
    # THEN
    assert 0 < used[0] < used[1] <= percent_used(lab, run)
    assert lab.holder(TWO) == run.name
    assert [len(put(lab, name)) for name in NAMES[:2]] == [before[name] for name in NAMES[:2]]
    # AND nothing more after its end
    run.stop()
    assert until(SECONDS, lambda: is_free(lab, TWO))
    assert falls_silent(lab)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "operation"),
    [
        ("Suspend rebalancing", "SuspendProcesses"),
        ("Start nodes", "UpdateAutoScalingGroup"),
    ],
)
def test_run_between_its_lease_and_its_nodes_is_left_alone(lab: Lab, state: str, operation: str) -> None:
    """A run has reserved a fleet and started nothing yet: the reaper, which looks meanwhile, does not touch it."""
    # GIVEN a run that is held there
    late = ApiFault(service="autoscaling", operation=operation, caller=WORKFLOW, times=1, error=None, delay_seconds=200)
    lab.put(failing=(late,))
    run = lab.start(gpus=2, seconds=1)
    assert until(SECONDS, lambda: lab.state_of(run) == state)
    lease = lab.app.lease(TWO)
    # WHEN the reaper looks at both fleets, twice, and takes the other one
    for _ in range(2):
        before = len(put(lab, METRIC_REAPED))
        raise_by_hand(lab, ONE, capacity=1)
        assert until(SECONDS, lambda before=before: len(put(lab, METRIC_REAPED)) > before and is_free(lab, ONE))
    # THEN
    assert lab.state_of(run) == state
    assert lab.app.lease(TWO) == lease
    assert max(put(lab, METRIC_CAPACITY_WITHOUT_LEASE)[-2:]) == 1
    # AND the run starts its nodes and trains
    lab.heal()
    assert (wait(run).state, run.receipt()["gpus"]) == ("SUCCEEDED", 2)


@pytest.mark.slow
def test_run_that_reserves_while_the_reaper_looks_is_left_alone(lab: Lab) -> None:
    """The reaper has seen a fleet without a lease and is about to take it when a run gets it: the run wins."""
    # GIVEN a reaper that read that nobody holds the fleet, and waits for the group's description
    hold_a_look(lab)
    before = len(put(lab, METRIC_REAPED))
    # WHEN a run reserves it, and its nodes are there by the time the description comes
    run = lab.start(gpus=2)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    lease = lab.app.lease(TWO)
    assert lease is not None
    lab.put(failing=())
    # THEN the reaper finds nodes and a lease that is not free any more
    time.sleep(SOME_LOOKS)
    assert lab.holder(TWO) == run.name
    assert len(lab.instances_in(TWO)) == 2
    assert len(put(lab, METRIC_REAPED)) == before
    run.stop()


@pytest.mark.slow
def test_run_that_ends_while_the_reaper_looks_is_not_reaped(lab: Lab) -> None:
    """The reaper has seen whose the fleet is, and the run frees it before the reaper finds that it has ended."""
    # GIVEN a reaper that read the run's lease, and waits for the group's description
    run = lab.start(gpus=2, seconds=20)
    assert until(SECONDS, lambda: lab.steps_of(run) > 0)
    hold_a_look(lab)
    before = len(put(lab, METRIC_REAPED))
    # WHEN the run ends by itself
    assert wait(run).state == "SUCCEEDED"
    lab.put(failing=())
    # THEN nobody takes what is free
    time.sleep(SOME_LOOKS)
    assert is_free(lab, TWO)
    assert len(put(lab, METRIC_REAPED)) == before


def hold_a_look(lab: Lab) -> None:
    """Let one look of the reaper read the leases and wait for the groups' descriptions, and begin no other."""
    late = ApiFault(
        service="autoscaling",
        operation="DescribeAutoScalingGroups",
        caller=WORKFLOW,
        times=2,
        error=None,
        delay_seconds=200,
    )
    lab.put(failing=(late,))
    time.sleep(2 * REAPER)
    lab.switch("reaper", on=False)


def falls_silent(lab: Lab) -> bool:
    """Tell whether the reaper comes to say nothing for some looks: one look may end long after the next has begun."""

    def says_nothing() -> bool:
        before = [put(lab, name) for name in NAMES]
        time.sleep(SOME_LOOKS)
        return [put(lab, name) for name in NAMES] == before

    return until(SECONDS, says_nothing)


def put(lab: Lab, name: str) -> list[float]:
    """List the values of a metric that were put for the lab's training, the oldest first."""
    cloudwatch = lab.cloud.client("cloudwatch")
    connection = lab.app.training.connection
    by_a_node = name == contract.METRIC_CEILING_USED
    training = connection.queue if by_a_node else connection.state_machine.rpartition(":")[2]
    now = datetime.now(UTC)
    found: list[dict[str, Any]] = cloudwatch.get_metric_statistics(
        Namespace=contract.METRIC_NAMESPACE,
        MetricName=name,
        Dimensions=[{"Name": contract.METRIC_TRAINING, "Value": training}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=1,
        Statistics=["Maximum"],
    )["Datapoints"]
    return [point["Maximum"] for point in sorted(found, key=lambda point: point["Timestamp"])]


def raise_by_hand(lab: Lab, fleet: int, *, capacity: int) -> None:
    """Ask for instances as somebody does who knows of no leases."""
    group = lab.group_of(fleet)["AutoScalingGroupName"]
    lab.cloud.client("autoscaling").set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=capacity)


def is_free(lab: Lab, fleet: int) -> bool:
    """Whether nothing of the fleet runs, and nobody holds it."""
    return lab.is_at_rest(fleet) and lab.app.lease(fleet) is None


def percent_used(lab: Lab, run: Run) -> float:
    """Work out how much of its ceiling the run has cost by now."""
    item = lab.app.item(contract.run_key(run.run_id)) or {}
    begin, end = (float(item[name]["N"]) for name in (contract.BILLED_FROM, contract.CEILING_AT))
    return 100 * (time.time() - begin) / (end - begin)
