"""One name, three runs: in a training, in another one with its buckets, and in the first when it was deployed anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from aws_cdk import App, Duration, Stack

from cdk_horovod import Engine, GpuFleet, HorovodTraining, RunTimeouts, TrainingImage, TrainingNetwork, TrainingStorage
from horovod_client import Run, TrainingClient
from horovod_local import LocalCloud
from horovod_node import contract
from support.local_cloud.deployment import SCRIPTS, Deployment, wait
from support.receipts import validate_receipt
from support.waiting import eventually

pytestmark = [pytest.mark.local, pytest.mark.slow]

NAME = "again"
FIRST, OTHER = "First", "Other"
"""Stacks of one training each; the buckets of both are in a third one."""


@pytest.fixture(scope="module")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthesise two trainings over the same buckets."""
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    app = App(outdir=str(out))
    storage = TrainingStorage(Stack(app, "Storage"), "Storage")
    for name in (FIRST, OTHER):
        stack = Stack(app, name)
        network = TrainingNetwork(stack, "Network")
        fleet = GpuFleet(
            stack,
            "Fleet",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            instance_types=["g5.xlarge"],
            max_gpus=1,
            on_demand_base_gpus=1,
        )
        HorovodTraining(
            stack,
            "Training",
            storage=storage,
            image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
            engine=Engine.ec2(fleet),
            timeouts=RunTimeouts(
                poll_interval=Duration.seconds(1),
            ),
        )
    app.synth()
    return out


@pytest.fixture
def two_trainings(assembly: Path, tmp_path: Path) -> Iterator[LocalCloud]:
    """Deploy both trainings into a cloud of their own, since one of them is deleted."""
    with LocalCloud(home=tmp_path / "cloud") as cloud:
        cloud.deploy(assembly)
        yield cloud


def test_name_that_is_used_again_is_a_new_run(two_trainings: LocalCloud, assembly: Path) -> None:
    """Neither another training nor a new deployment of the same one takes up or replaces what a run has left."""
    # GIVEN a run that has left a checkpoint, a model and a receipt
    cloud = two_trainings
    first = leave_a_note(cloud.training(FIRST), "of the first")
    kept = versions(cloud, first)
    assert {contract.model_key(first.run_id), contract.receipt_key(first.run_id)} < {key for key, _, _ in kept}
    assert any(key.startswith(contract.checkpoint_prefix(first.run_id)) for key, _, _ in kept)
    # WHEN another training with the same buckets has a run of this name
    other = leave_a_note(cloud.training(OTHER), "of the other training")
    # AND the first training is deleted
    delete(cloud, FIRST)
    # AND deployed anew, where the name means the old run until there is a new one
    cloud.deploy(assembly)
    assert Run.from_id(NAME, client=cloud.training(FIRST)).run_id == first.run_id
    anew = leave_a_note(cloud.training(FIRST), "of the new deployment")
    # THEN these are three runs, and each has what it left itself and was restored from nothing
    runs = [first, other, anew]
    notes = [b"of the first", b"of the other training", b"of the new deployment"]
    assert len({run.run_id for run in runs}) == len(runs)
    assert {run.connection.model_bucket for run in runs} == {first.connection.model_bucket}
    models = [Deployment(cloud=cloud).model(run) for run in runs]
    assert models == [{"note": note, "restored": b""} for note in notes]
    # AND nothing of the first one was replaced or deleted
    assert versions(cloud, first) == kept
    # AND each receipt is its own run's
    receipts = [run.receipt() for run in runs]
    for run, receipt in zip(runs, receipts, strict=True):
        validate_receipt(receipt)
        assert (receipt["run"], receipt["model"]["uri"]) == (NAME, run.model_uri)
    assert len({node["node"] for receipt in receipts for node in receipt["nodes"]}) == len(runs)
    assert receipts[0]["times"]["terminated_at"] < receipts[2]["times"]["reserved_at"]


def leave_a_note(training: TrainingClient, note: str) -> Run:
    """Run the script that leaves *note*, under the one name, to its end."""
    script = SCRIPTS / "keeps_a_note.py"
    run = training.fit(script, gpus=1, name=NAME, hyperparameters={"note": note})
    ended = wait(run)
    assert (ended.state, ended.error, ended.cause) == ("SUCCEEDED", None, None)
    # Step Functions forgets the execution with its state machine; the run's id is asked for before.
    assert run.run_id.split("/")[1] == NAME
    return run


def versions(cloud: LocalCloud, run: Run) -> set[tuple[str, str, str]]:
    """List every version of what *run* has in the model bucket, and every mark of a deletion."""
    s3, bucket = cloud.client("s3"), run.connection.model_bucket
    found = set()
    for prefix in (contract.RUNS_PREFIX, contract.CHECKPOINT_PREFIX):
        answer = s3.list_object_versions(Bucket=bucket, Prefix=f"{prefix}{run.run_id}/")
        found |= {(item["Key"], item["VersionId"], item["ETag"]) for item in answer.get("Versions", ())}
        found |= {(item["Key"], item["VersionId"], "deleted") for item in answer.get("DeleteMarkers", ())}
    return found


def delete(cloud: LocalCloud, stack: str) -> None:
    """Delete *stack* and wait until it is gone."""
    cloudformation = cloud.client("cloudformation")
    cloudformation.delete_stack(StackName=stack)
    alive = ["CREATE_COMPLETE", "DELETE_IN_PROGRESS", "DELETE_FAILED"]

    def left() -> list[str]:
        summaries = cloudformation.list_stacks(StackStatusFilter=alive)["StackSummaries"]
        return [each["StackStatus"] for each in summaries if each["StackName"] == stack]

    assert eventually(left, lambda found: not found) == []
