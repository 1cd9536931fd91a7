"""Reading of a run's status from AWS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from horovod_client.aws.clients import AwsClients
from horovod_client.aws.connection import Connection, Fleet
from horovod_client.aws.ledger_items import RunItems, fleets_left, json_of, read_run, text_of
from horovod_client.status.capacity import CapacitySearch, LostAttempt
from horovod_client.status.instances import find_instances
from horovod_client.status.jobs import find_job, nodes_to_come
from horovod_client.status.nodes import nodes_of
from horovod_client.status.phase import STARTING, phase_of
from horovod_client.status.progress import progress_of
from horovod_client.status.queue import Queue, read_queue
from horovod_client.status.run_ids import id_of, not_found
from horovod_client.status.run_status import RUNNING, SUCCEEDED, JobStatus, NodeStatus, RunStatus, is_over
from horovod_client.status.spend import spend_of
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.type_defs import DescribeExecutionOutputTypeDef


def read_status(run: str, *, connection: Connection, clients: AwsClients, now: float) -> RunStatus:
    """
    Read the status of a run with DescribeExecution, GetItem and Query, and one or two more calls while it waits or
    starts.

    Args:
        run: Name of the run.
        connection: Connection to the training.
        clients: boto3 clients.
        now: Current time, in epoch seconds.

    Raises:
        RunNotFound: If the training has no such run.
    """
    execution = describe_execution(run, connection=connection, clients=clients)
    state = execution["status"]
    run_id = id_of(run, execution["startDate"], connection=connection)
    items = read_run(clients.dynamodb, table=connection.ledger_table, run_id=run_id)
    stage = text_of(items.run, contract.STAGE)
    request: Mapping[str, Any] = json_of(items.run, contract.REQUEST_JSON) or {}
    gpus = request.get(contract.GPUS)
    running = state == RUNNING
    waits = running and stage == contract.STAGE_QUEUED
    queue = read_queue(clients.dynamodb, connection, run=run, gpus=gpus) if waits else Queue()
    starting = running and stage in STARTING
    fleet = _fleet(items, connection=connection)
    nodes = _nodes(items, starting=starting, fleet=fleet, clients=clients, now=now)
    job: JobStatus | None = None
    if starting and fleet is not None and fleet.job_prefix:
        job = find_job(
            clients.sagemaker,
            clients.dynamodb,
            table=connection.ledger_table,
            fleet=fleet.id,
            prefix=fleet.job_prefix,
            run_id=run_id,
        )
    if fleet is not None and job is not None:
        nodes += nodes_to_come(job, joined=nodes, gpus_of=fleet.types)
    return RunStatus(
        run=run,
        state=state,
        stage=stage,
        phase=phase_of(
            stage=stage,
            ended=is_over(state),
            gpus=gpus,
            nodes=nodes,
            times=json_of(items.run, contract.TIMES_JSON) or {},
        ),
        error=execution.get("error"),
        cause=execution.get("cause"),
        model_uri=model_uri(connection, run_id) if state == SUCCEEDED else None,
        notice=text_of(items.run, contract.NOTICE),
        place=queue.place,
        holders=queue.holders,
        capacity=CapacitySearch.from_item(items.run) if running and stage == contract.STAGE_JOINING else None,
        restarts=LostAttempt.all_of(items.run),
        job=job,
        gpus=gpus,
        started_at=execution["startDate"].timestamp(),
        nodes=nodes,
        progress=progress_of(items, now=now),
        spend=spend_of(items, running=running, now=now),
    )


def model_uri(connection: Connection, run_id: str) -> str:
    """Return the S3 address of a run's model."""
    return f"s3://{connection.model_bucket}/{contract.model_key(run_id)}"


def describe_execution(run: str, *, connection: Connection, clients: AwsClients) -> DescribeExecutionOutputTypeDef:
    """
    Describe the execution of *run*.

    Raises:
        RunNotFound: If the training has no such run.
    """
    stepfunctions = clients.stepfunctions
    try:
        return stepfunctions.describe_execution(executionArn=connection.execution_arn(run))
    except stepfunctions.exceptions.ExecutionDoesNotExist as error:
        raise not_found(run) from error


def _fleet(items: RunItems, *, connection: Connection) -> Fleet | None:
    """Return the fleet that the run has, as its item names it; none if it waits for another one."""
    held = text_of(items.run, contract.FLEET)
    left = fleets_left(items.run)
    return next((fleet for fleet in connection.fleets if fleet.id == held and held not in left), None)


def _nodes(
    items: RunItems, *, starting: bool, fleet: Fleet | None, clients: AwsClients, now: float
) -> tuple[NodeStatus, ...]:
    instances = None
    if starting and fleet is not None and fleet.group:
        instances = find_instances(clients.autoscaling, group=fleet.group, gpus_of=fleet.types)
    return nodes_of(
        items, instances=instances, starting=starting, gpus_of={} if fleet is None else fleet.types, now=now
    )
