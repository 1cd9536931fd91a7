"""The three things that the state machine asks of the leader, each a task token in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.search import CAPACITY_JSON, FORMED
from cdk_horovod.workflow.states import NODES_PARTITION, NOW, RUN_KEY, attempt_digits, call_aws, jsonata, now_as
from horovod_node import contract

HEARTBEAT_MISSED = "States.HeartbeatTimeout"
TIMED_OUT = "States.Timeout"


def wait_for_the_ring(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """
    Ask for the ring, and tell people of the attempt to get capacity for it.

    Before the first node is up nobody can send a heartbeat: its limit is the launch timeout, or the attempt's own.
    """
    return _ask_the_leader(
        scope,
        "Wait for the ring",
        ledger=ledger,
        task=contract.TASK_RING,
        stage=contract.STAGE_JOINING,
        heartbeat=sfn.Timeout.jsonata(jsonata("$search.attempt.heartbeat")),
        timeout=sfn.Timeout.jsonata(jsonata("$search.attempt.seconds")),
        assign={"ring": jsonata("$states.result"), "times": now_as("ring_at"), "search": FORMED},
        tell={contract.CAPACITY_JSON: CAPACITY_JSON, contract.RESTARTS_JSON: jsonata("$string([$lost])")},
    )


def train(scope: Construct, *, ledger: Ledger, limits: RunLimits) -> sfn.TaskStateBase:
    """
    Ask for the training; its timeout is what comes first of the request's ceiling and of what attempts that were lost
    have left of its limit of time.
    """
    longest = f"($request.{contract.MAX_RUNTIME_SECONDS} - $spent)"
    ceiling = f"$price.{contract.CEILING_AT}"
    return _ask_the_leader(
        scope,
        "Train",
        ledger=ledger,
        task=contract.TASK_TRAIN,
        stage=contract.STAGE_TRAINING,
        heartbeat=sfn.Timeout.duration(limits.heartbeat),
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
        heartbeat=sfn.Timeout.duration(limits.heartbeat),
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
    heartbeat: sfn.Timeout,
    timeout: sfn.Timeout,
    assign: Mapping[str, Any],
    tell: Mapping[str, str] | None = None,
) -> sfn.TaskStateBase:
    """Put the token, and the run's stage and what else it has to tell, into the ledger in one write; wait."""
    # With the milestones so far: a run that is stopped has nobody else to tell them.
    told = {contract.STAGE: stage, contract.TIMES_JSON: jsonata("$string($times)"), **(tell or {})}
    table = ledger.table.table_name
    token = {
        contract.PARTITION_KEY: NODES_PARTITION,
        contract.SORT_KEY: {"S": jsonata(f"'{contract.TASK_PREFIX}' & {attempt_digits('$attempt')} & '#{task}'")},
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
                        "UpdateExpression": "SET " + ", ".join(f"#{name} = :{name}" for name in told),
                        "ExpressionAttributeNames": {f"#{name}": name for name in told},
                        "ExpressionAttributeValues": {f":{name}": {"S": value} for name, value in told.items()},
                    }
                },
            ]
        },
        resources=[ledger.table.table_arn],
        assign=assign,
        task_timeout=timeout,
        heartbeat=heartbeat,
    )
