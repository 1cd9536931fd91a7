"""The training job of a run before its nodes have joined, as the client sees it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from horovod_client import JobStatus, NodeStatus
from horovod_client.status.jobs import find_job, nodes_to_come
from horovod_node import contract

RUN = "Training/digits/20261127T120000Z"
PREFIX = "training-0a1b2c3d-1-"
NAME = contract.job_name(PREFIX, run_id=RUN, attempt=3)
NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
FOUND = JobStatus(
    name=NAME,
    status="Downloading",
    message="Downloading the training image",
    instance_type="ml.g5.12xlarge",
    nodes=2,
    there=True,
)


def client(service: str) -> tuple[Any, Stubber]:
    """Make a client that answers what it is told to."""
    made = boto3.client(service, region_name="eu-west-1", aws_access_key_id="testing", aws_secret_access_key="testing")
    stubber = Stubber(made)
    stubber.activate()
    return made, stubber


def found(*, holder: str = RUN, status: str = "Downloading", error: str = "") -> JobStatus | None:
    """Look for the job of the run, where the fleet's lease is of the run *holder*, in its third attempt."""
    dynamodb, ledger = client("dynamodb")
    partition, sort = contract.lease_key("sagemaker-1")
    key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
    ledger.add_response(
        "get_item",
        {"Item": {**key, contract.RUN_ID: {"S": holder}, contract.ATTEMPT: {"N": "3"}}},
        {"TableName": "ledger", "Key": key, "ConsistentRead": True},
    )
    sagemaker, jobs = client("sagemaker")
    if error:
        jobs.add_client_error("describe_training_job", error)
    else:
        began = {"TrainingStartTime": NOON} if status != "Starting" else {}
        jobs.add_response(
            "describe_training_job",
            {
                "TrainingJobName": NAME,
                "TrainingJobArn": f"arn:aws:sagemaker:eu-west-1:123456789012:training-job/{NAME}",
                "ModelArtifacts": {"S3ModelArtifacts": "s3://models/sagemaker/model.tar.gz"},
                "TrainingJobStatus": "InProgress",
                "AlgorithmSpecification": {"TrainingInputMode": "File"},
                "StoppingCondition": {},
                "CreationTime": NOON,
                "SecondaryStatus": status,
                "SecondaryStatusTransitions": [
                    {"Status": "Starting", "StartTime": NOON, "StatusMessage": "Preparing the instances for training"},
                    *(
                        [{"Status": status, "StartTime": NOON, "StatusMessage": "Downloading the training image"}]
                        if began
                        else []
                    ),
                ],
                "ResourceConfig": {"InstanceType": "ml.g5.12xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30},
                **began,
            },
            {"TrainingJobName": NAME},
        )
    return find_job(sagemaker, dynamodb, table="ledger", fleet="sagemaker-1", prefix=PREFIX, run_id=RUN)


def test_the_job_of_the_present_attempt_is_described() -> None:
    """SageMaker's status, its words, and whether the instances are there."""
    assert found() == FOUND
    assert found(status="Starting") == replace(
        FOUND, status="Starting", message="Preparing the instances for training", there=False
    )


@pytest.mark.parametrize("error", ["AccessDeniedException", "ValidationException"])
def test_a_job_that_cannot_be_seen_is_none(error: str) -> None:
    """A reader without the permission, and a run that has not created its job yet, are told the rest."""
    assert found(error=error) is None


def test_the_job_of_another_run_is_not_shown() -> None:
    """A fleet's lease may have passed to the next run already."""
    assert found(holder="Training/other/20261127T130000Z") is None


def test_instances_that_have_not_joined_are_nodes() -> None:
    """Each instance of a job that has them is a node until the node itself has joined."""
    # GIVEN one of two nodes, which has joined
    joined = NodeStatus(
        node="algo-2-0a1b", state="joined", gpus=4, instance_type="ml.g5.12xlarge", market="spot", zone=""
    )
    # WHEN
    pulling, started, none = (
        nodes_to_come(job, joined=[joined], gpus_of={"ml.g5.12xlarge": 4})
        for job in (FOUND, replace(FOUND, status="Training"), replace(FOUND, status="Starting", there=False))
    )
    # THEN
    assert [(node.node, node.state, node.gpus) for node in pulling] == [("algo-1", "pulling the image", 4)]
    assert [(node.node, node.state) for node in started] == [("algo-1", "started")]
    assert none == ()
