"""Which run a name means: that of its execution, whatever runs of the same name have left."""

from __future__ import annotations

from datetime import datetime

from horovod_client.aws.clients import AwsClients
from horovod_client.aws.connection import Connection
from horovod_client.errors import RunNotFound
from horovod_node import contract


def id_of(name: str, started: datetime, *, connection: Connection) -> str:
    """
    Identify the run of an execution.

    Args:
        name: Name of the execution.
        started: Its `startDate`.
        connection: The training that runs it.
    """
    return contract.run_id(connection.queue, name, started)


def find_id(name: str, *, connection: Connection, clients: AwsClients) -> str:
    """
    Identify a run by its name.

    Step Functions tells when its execution started. 90 days after its end it has forgotten the execution (Developer
    Guide, "Service quotas"); then the newest run of this name counts that left something in the model bucket.

    Args:
        name: Name of the run.
        connection: The training that it ran on.
        clients: What to call AWS through.

    Raises:
        RunNotFound: If there is neither.
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
    """Say that there is no such run."""
    return RunNotFound(f"there is no run '{name}' of the last 90 days: cdk-horovod ls shows those that there are")
