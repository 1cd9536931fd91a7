"""Getting the fleet, waiting for it, and giving it back."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.states import NO_OUTPUT, call_aws, failure, jsonata, now_as
from horovod_node import contract

FLEET_IS_TAKEN = "DynamoDb.ConditionalCheckFailedException"
"""Error of a conditional write through the SDK integration (the optimised one spells it `DynamoDB.…`)."""

_RUN_NAMES = {"#run": contract.RUN}
_RUN_VALUES = {":run": {"S": jsonata("$run")}}


def reserve(scope: Construct, *, ledger: Ledger, fleet_id: str, limits: RunLimits) -> sfn.TaskStateBase:
    """
    Build the state that takes the fleet's lease, or fails with `FLEET_IS_TAKEN`.

    The same run may take it twice: the answer of a write that succeeded can get lost.
    """
    partition, sort = contract.lease_key(fleet_id)
    now = "$floor($millis() / 1000)"
    state = call_aws(
        scope,
        "Reserve the fleet",
        service="dynamodb",
        action="putItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Item": {
                contract.PARTITION_KEY: {"S": partition},
                contract.SORT_KEY: {"S": sort},
                contract.RUN: {"S": jsonata("$run")},
                contract.ATTEMPT: {"N": jsonata("$string($attempt)")},
                contract.EXECUTION: {"S": jsonata("$states.context.Execution.Id")},
                contract.ACQUIRED_AT: {"N": jsonata(f"$string({now})")},
                contract.EXPIRES_AT: {"N": jsonata(f"$string({now} + {limits.execution_timeout.to_seconds()})")},
            },
            "ConditionExpression": f"attribute_not_exists({contract.PARTITION_KEY}) OR #run = :run",
            "ExpressionAttributeNames": _RUN_NAMES,
            "ExpressionAttributeValues": _RUN_VALUES,
        },
        resources=[ledger.table.table_arn],
        assign={"times": now_as("reserved_at")},
        retry=False,
    )
    # A taken fleet is an answer, not an outage: it goes to the queue at once. The first matching retrier counts.
    state.add_retry(errors=[FLEET_IS_TAKEN], max_attempts=0)
    state.add_retry(errors=["States.ALL"], max_attempts=5, interval=Duration.seconds(1), backoff_rate=2)
    return state


def wait_for_the_fleet(scope: Construct, *, limits: RunLimits, then: sfn.IChainable, refused: sfn.State) -> sfn.State:
    """Build the queue: try *then* again every poll interval, and go to *refused* after the queue timeout."""
    waited = "$millis() - $toMillis($times.started_at)"
    allowed = limits.queue_timeout.to_seconds()
    give_up = sfn.Pass.jsonata(
        scope,
        "Leave the queue",
        assign=failure(
            contract.ERROR_QUEUE_TIMEOUT,
            f"'Another run holds the fleet; this one waited {allowed} s for it, the queue_timeout.'",
        ),
        outputs=NO_OUTPUT,
    )
    give_up.next(refused)
    wait = sfn.Wait.jsonata(
        scope, "Wait for the fleet", time=sfn.WaitTime.duration(limits.poll_interval), outputs=NO_OUTPUT
    )
    return wait.next(
        sfn.Choice.jsonata(scope, "Waited too long?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"{waited} > {allowed * 1000}")), give_up)
        .otherwise(then)
    ).start_state


def release(scope: Construct, *, ledger: Ledger, fleet_id: str) -> sfn.TaskStateBase:
    """Build the state that gives the fleet back, if and only if this run holds it."""
    partition, sort = contract.lease_key(fleet_id)
    state = call_aws(
        scope,
        "Release the fleet",
        service="dynamodb",
        action="deleteItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}},
            "ConditionExpression": "#run = :run",
            "ExpressionAttributeNames": _RUN_NAMES,
            "ExpressionAttributeValues": _RUN_VALUES,
        },
        resources=[ledger.table.table_arn],
        retry=False,
    )
    state.add_retry(errors=[FLEET_IS_TAKEN], max_attempts=0)
    state.add_retry(errors=["States.ALL"], max_attempts=8, interval=Duration.seconds(1), backoff_rate=2)
    return state
