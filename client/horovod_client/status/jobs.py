"""The SageMaker training job of a run whose nodes have not written to the ledger yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from horovod_client.aws.error_codes import DENIED, code_of
from horovod_client.aws.ledger_items import number_of, text_of
from horovod_client.status.run_status import NODE_PULLING, NODE_STARTED, JobStatus, NodeStatus
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from horovod_client.aws.clients import SageMakerClient

NO_JOB: Final = "ValidationException"
"""SageMaker's answer to a name that no job has ("Requested resource not found.")."""
DOWNLOADING: Final = ("Downloading", "DownloadingTrainingImage")
"""Secondary statuses in which the instances pull the image."""


def find_job(
    sagemaker: SageMakerClient, dynamodb: DynamoDBClient, *, table: str, fleet: str, prefix: str, run_id: str
) -> JobStatus | None:
    """
    Describe the job of the run's current attempt, which the fleet's lease tells.

    Args:
        sagemaker: Client of the training's Region.
        dynamodb: Client of the ledger's Region.
        table: Name of the ledger's table.
        fleet: Name of the run's fleet in the ledger.
        prefix: What begins the names of the fleet's jobs.
        run_id: Id of the run.

    Returns:
        None if there is no job yet, or the credentials lack the permission to see it.
    """
    partition, sort = contract.lease_key(fleet)
    key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
    lease = dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item", {})
    attempt = number_of(lease, contract.ATTEMPT)
    if attempt is None or text_of(lease, contract.RUN_ID) != run_id:
        return None
    try:
        job = sagemaker.describe_training_job(
            TrainingJobName=contract.job_name(prefix, run_id=run_id, attempt=int(attempt))
        )
    except sagemaker.exceptions.ClientError as error:
        if code_of(error) not in (*DENIED, NO_JOB):
            raise
        return None
    transitions = job.get("SecondaryStatusTransitions") or [{}]
    return JobStatus(
        name=job["TrainingJobName"],
        status=job["SecondaryStatus"],
        message=transitions[-1].get("StatusMessage", ""),
        instance_type=job["ResourceConfig"].get("InstanceType", ""),
        nodes=job["ResourceConfig"].get("InstanceCount", 0),
        there="TrainingStartTime" in job,
    )


def nodes_to_come(
    job: JobStatus, *, joined: Collection[NodeStatus], gpus_of: Mapping[str, int]
) -> tuple[NodeStatus, ...]:
    """
    List the job's instances that are there but have not joined.

    Args:
        job: The job.
        joined: Nodes that have joined; a node has the name of its host and a suffix.
        gpus_of: GPUs of each instance type.
    """
    if not job.there:
        return ()
    hosts = [f"algo-{number}" for number in range(1, job.nodes + 1)]
    here = {node.node.rpartition("-")[0] for node in joined}
    return tuple(
        NodeStatus(
            node=host,
            state=NODE_PULLING if job.status in DOWNLOADING else NODE_STARTED,
            gpus=gpus_of.get(job.instance_type, 0),
            instance_type=job.instance_type,
            market="",
            zone="",
        )
        for host in hosts
        if host not in here
    )
