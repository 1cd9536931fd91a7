"""A training on two engines: a run goes on to the second where the first has no nodes, in one request and receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from horovod_client.aws.ledger_items import read_run
from horovod_local import Faults, Refusal
from horovod_node import contract
from support.faults.lab import receipt_of
from support.local_cloud.deployment import facts, wait
from support.local_cloud.engines import FIRST_AVAILABLE, GPUS, EngineDeployment, deployed_engine
from support.waiting import eventually

pytestmark = pytest.mark.local

NO_SPOT = Refusal(instance_type="g5.xlarge", market=contract.SPOT)
"""EC2 has no Spot capacity; that of SageMaker is another one."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineDeployment]:
    with deployed_engine(tmp_path_factory.mktemp("first-available"), FIRST_AVAILABLE) as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def nothing_is_left(app: EngineDeployment) -> Iterator[None]:
    """After every run neither engine has anything, no run waits, and no request was denied."""
    yield
    app.cloud.set_faults(Faults())
    app.assert_nothing_is_left()
    assert eventually(lambda: app.lease(1), lambda lease: lease is None) is None
    assert app.queue() == []
    assert app.cloud.permissions()["denials"] == []


def assert_costs(receipt: Mapping[str, Any], *, on_ec2: int) -> None:
    """See that the receipt has *on_ec2* instances and a job of all GPUs, and that each is paid once."""
    instances = [node for node in receipt["nodes"] if node["instance_type"] == "g5.xlarge"]
    assert (len(instances), len(receipt["nodes"])) == (on_ec2, on_ec2 + GPUS)
    (job,) = receipt["jobs"]
    usd = sum(node["usd"] for node in instances) + job["billed_seconds"] * GPUS / 3600
    assert receipt["cost"]["usd"] == pytest.approx(usd, abs=1e-3)
    assert min(node["usd"] for node in instances) > 0


def test_a_run_without_capacity_goes_on_elsewhere(app: EngineDeployment) -> None:
    """EC2 has no Spot capacity, so the run trains on SageMaker; its receipt tells of both attempts and the bill."""
    # GIVEN
    app.cloud.set_faults(Faults(refused=(NO_SPOT,)))
    # WHEN
    run = app.start("trains_briefly.py", gpus=GPUS)
    status = wait(run)
    # THEN
    assert (status.state, status.cause) == ("SUCCEEDED", None)
    assert facts(app.model(run))["ranks"] == GPUS
    receipt = receipt_of(run)
    assert [(look["fleet"], look["outcome"]) for look in receipt["capacity"]] == [
        (app.training.connection.fleets[0].id, "capacity"),
        ("sagemaker-1", "formed"),
    ]
    assert receipt["fleet"] == "sagemaker-1"
    # AND the On-Demand instance that waited on EC2 for a Spot instance is paid as well
    assert_costs(receipt, on_ec2=1)


@pytest.mark.slow
def test_a_run_that_finds_a_fleet_taken_goes_elsewhere_at_once(app: EngineDeployment) -> None:
    """While another run holds the fleet on EC2, the next one does not wait for it."""
    # GIVEN
    first = app.start("steps_only.py", gpus=GPUS)
    app.training_nodes(first)
    # WHEN
    second = app.start("trains_briefly.py", gpus=GPUS)
    status = wait(second)
    # THEN
    assert (status.state, app.fleet_of(second)) == ("SUCCEEDED", "sagemaker-1")
    assert first.status().state == "RUNNING"
    first.stop()
    assert [look["outcome"] for look in receipt_of(second)["capacity"]] == ["formed"]


@pytest.mark.slow
def test_a_run_that_lost_its_nodes_resumes_elsewhere(app: EngineDeployment) -> None:
    """A Spot instance is lost and there is no other: the run goes on from its checkpoint on the other engine."""
    # GIVEN a run on EC2 that has saved a checkpoint
    run = app.start("keeps_a_note.py", gpus=GPUS, hyperparameters={"note": "of EC2", "seconds": 3600})
    app.training_nodes(run, step=21)
    on_ec2 = app.fleet_of(run)
    objects = app.cloud.client("s3").get_paginator("list_objects_v2")
    bucket, prefix = run.connection.model_bucket, contract.checkpoint_prefix(run.run_id)
    assert eventually(lambda: [page for page in objects.paginate(Bucket=bucket, Prefix=prefix) if page["KeyCount"]])
    # WHEN
    app.cloud.set_faults(Faults(refused=(NO_SPOT,)))
    (spot,) = (instance for instance in app.cloud.instances() if instance.market == contract.SPOT)
    app.cloud.lose(spot.instance_id)
    status = wait(run)
    # THEN
    assert (status.state, status.cause) == ("SUCCEEDED", None)
    assert app.model(run)["restored"] == b"note: of EC2"
    receipt = receipt_of(run)
    assert [(look["fleet"], look["outcome"]) for look in receipt["capacity"]] == [
        (on_ec2, "formed"),
        (on_ec2, "capacity"),
        ("sagemaker-1", "formed"),
    ]
    assert_costs(receipt, on_ec2=GPUS)
    # AND whoever watches the run sees them, too
    found = read_run(app.cloud.client("dynamodb"), table=run.connection.ledger_table, run_id=run.run_id)
    assert {item[contract.INSTANCE_TYPE]["S"] for item in found.nodes.values()} == {"g5.xlarge", "ml.g5.xlarge"}


@pytest.mark.slow
def test_a_run_that_nobody_has_nodes_for_has_all_words(app: EngineDeployment) -> None:
    """The cause tells what each engine's provider said."""
    # GIVEN
    quota = Refusal(instance_type="ml.g5.xlarge", why="quota")
    app.cloud.set_faults(Faults(refused=(NO_SPOT, quota)))
    # WHEN
    run = app.start("trains_briefly.py", gpus=GPUS)
    status = wait(run)
    # THEN
    assert (status.state, status.error) == ("FAILED", contract.ERROR_RING_NOT_FORMED)
    words = str(status.cause)
    assert words.startswith("The ring of 2 GPUs did not form. EC2, attempt 1 of 1, ")
    assert "EC2 said: " in words.partition(" SageMaker, attempt 1 of 1, ")[0]
    assert "SageMaker said: " in words
    assert [look["outcome"] for look in receipt_of(run)["capacity"]] == ["capacity", "quota"]


@pytest.mark.slow
def test_a_run_that_is_stopped_between_two_fleets_has_its_receipt(app: EngineDeployment) -> None:
    """A run that has left EC2 and waits for SageMaker's one job holds nothing, and a clean-up finds what it left."""
    # GIVEN SageMaker's one job belongs to another run
    first = app.start("steps_only.py", gpus=GPUS)
    app.training_nodes(first)
    second = app.start("steps_only.py", gpus=GPUS)
    assert eventually(lambda: app.fleet_of(second), lambda fleet: fleet == "sagemaker-1") == "sagemaker-1"
    app.training_nodes(second)
    app.cloud.set_faults(Faults(refused=(NO_SPOT,)))
    first.stop()
    assert eventually(lambda: app.lease(), lambda lease: lease is None) is None
    # WHEN a third one leaves EC2 and is stopped while it waits
    third = app.start("trains_briefly.py", gpus=GPUS)
    assert eventually(lambda: "Leave the fleet" in app.states_of(third)), app.states_of(third)
    assert eventually(lambda: app.queue(), lambda names: third.name in names)
    third.stop()
    # THEN the clean-up finds what it left
    receipt = receipt_of(third)
    assert (receipt["outcome"], receipt["written_by"], "fleet" in receipt) == ("failed", "clean-up", False)
    second.stop()
