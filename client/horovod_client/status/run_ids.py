"""Ids of runs, which distinguish runs with the same name."""

from __future__ import annotations

from datetime import datetime

from horovod_client.aws.clients import AwsClients
from horovod_client.aws.connection import Connection
from horovod_client.errors import RunNotFound
from horovod_node import contract


def id_of(name: str, started: datetime, *, connection: Connection) -> str:
    """
    Return the id of an execution's run.

    Args:
        name: Name of the execution.
        started: `startDate` of the execution.
        connection: Connection to the training.
    """
    return contract.run_id(connection.queue, name, started)


def find_id(name: str, *, connection: Connection, clients: AwsClients) -> str:
    """
    Find the id of a run by its name.

    The id contains the start time of the execution, which Step Functions keeps for 90 days after its end (Developer
    Guide, "Service quotas"). For older runs, this is the newest run of this name with objects in the model bucket.

    Args:
        name: Name of the run.
        connection: Connection to the training.
        clients: boto3 clients.

    Raises:
        RunNotFound: If there is neither an execution nor an object.
    """
    stepfunctions = clients.stepfunctions
    try:
        execution = stepfunctions.describe_execution(executionArn=connection.execution_arn(name))
        return id_of(name, execution["startDate"], connection=connection)
    except stepfunctions.exceptions.ExecutionDoesNotExist as error:
        prefix = contract.runs_of(connection.queue, name)
        pages = clients.s3.get_paginator("list_objects_v2").paginate(
            Bucket=connection.model_bucket, Prefix=prefix, Delimiter="/"
        )
        left = [folder["Prefix"] for page in pages for folder in page.get("CommonPrefixes", ())]
        if not left:
            raise not_found(name) from error
        return max(left).removeprefix(contract.RUNS_PREFIX).rstrip("/")


def not_found(name: str) -> RunNotFound:
    """Create the error for a run that does not exist."""
    return RunNotFound(f"there is no run '{name}' in the last 90 days: cdk-horovod ls lists the runs")
