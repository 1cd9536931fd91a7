"""The three things that the state machine asks of the leader, each a task token in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.states import NOW, RUN_KEY, RUN_PARTITION, call_aws, jsonata, now_as
from horovod_node import contract

HEARTBEAT_MISSED = "States.HeartbeatTimeout"
TIMED_OUT = "States.Timeout"


def wait_for_the_ring(scope: Construct, *, ledger: Ledger, limits: RunLimits) -> sfn.TaskStateBase:
    """Ask for the ring. Before the first node is up nobody can send a heartbeat: its limit is the launch timeout."""
    return _ask_the_leader(
        scope,
        "Wait for the ring",
        ledger=ledger,
        task=contract.TASK_RING,
        stage=contract.STAGE_JOINING,
        heartbeat=limits.launch_timeout,
        timeout=sfn.Timeout.duration(limits.start_timeout),
        assign={"ring": jsonata("$states.result"), "times": now_as("ring_at")},
    )


def train(scope: Construct, *, ledger: Ledger, limits: RunLimits) -> sfn.TaskStateBase:
    """Ask for the training; what comes first of the request's limit of time and its ceiling is the timeout."""
    longest = f"$request.{contract.MAX_RUNTIME_SECONDS}"
    ceiling = f"$price.{contract.CEILING_AT}"
    return _ask_the_leader(
        scope,
        "Train",
        ledger=ledger,
        task=contract.TASK_TRAIN,
        stage=contract.STAGE_TRAINING,
        heartbeat=limits.heartbeat,
        # `Timeout.at` would render TimeoutSecondsPath, which JSONata states do not have. Step Functions wants the
        # timeout longer than the heartbeat, so a shorter request gets the heartbeat's time.
        timeout=sfn.Timeout.jsonata(
            jsonata(
                f"$max([$min([{longest}, {ceiling} > 0 ? {ceiling} - {NOW} : {longest}]), "
                f"{limits.heartbeat.to_seconds() + 1}])"
            )
        ),
        assign={"trained": jsonata("$states.result"), "times": now_as("trained_at")},
    )


def save_the_model(scope: Construct, *, ledger: Ledger, limits: RunLimits) -> sfn.TaskStateBase:
    """Ask for the upload of the model."""
    return _ask_the_leader(
        scope,
        "Save the model",
        ledger=ledger,
        task=contract.TASK_SAVE,
        stage=contract.STAGE_SAVING,
        heartbeat=limits.heartbeat,
        timeout=sfn.Timeout.duration(limits.save_timeout),
        assign={"saved": jsonata("$states.result"), "times": now_as("saved_at")},
    )


def _ask_the_leader(
    scope: Construct,
    name: str,
    *,
    ledger: Ledger,
    task: contract.Task,
    stage: str,
    heartbeat: Duration,
    timeout: sfn.Timeout,
    assign: Mapping[str, Any],
) -> sfn.TaskStateBase:
    """Put the token and the run's stage into the ledger in one write, and wait for the answer."""
    table = ledger.table.table_name
    token = {
        contract.PARTITION_KEY: RUN_PARTITION,
        contract.SORT_KEY: {"S": jsonata(f"'{contract.TASK_PREFIX}' & $attempt & '#{task}'")},
        contract.TOKEN: {"S": jsonata("$states.context.Task.Token")},
        contract.TTL_ATTRIBUTE: {"N": jsonata("$remove_at")},
    }
    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="transactWriteItems",
        # The permission is that of the writes inside; DynamoDB has no action of the transaction's own.
        iam_action="dynamodb:PutItem",
        parameters={
            "TransactItems": [
                {"Put": {"TableName": table, "Item": token}},
                {
                    "Update": {
                        "TableName": table,
                        "Key": RUN_KEY,
                        "UpdateExpression": "SET #stage = :stage",
                        "ExpressionAttributeNames": {"#stage": contract.STAGE},
                        "ExpressionAttributeValues": {":stage": {"S": stage}},
                    }
                },
            ]
        },
        resources=[ledger.table.table_arn],
        assign=assign,
        task_timeout=timeout,
        heartbeat=heartbeat,
    )
