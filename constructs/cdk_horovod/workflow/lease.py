"""
A fleet's lease: taken, renewed, given back.

Who scales a fleet holds its lease at that moment, whoever it is: a run, the clean-up or the reaper. Each write below is
conditional, so that none of them ever acts on a fleet that has gone to somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.item_update import update_item
from cdk_horovod.asl.states import (
    CONDITION_FAILED,
    NO_OUTPUT,
    NOW,
    REDRIVEN,
    RUN_KEY,
    TRANSACTION_CANCELED,
    call_aws,
    jsonata,
    now_as,
)
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow.capacity_search import BEGUN_AGAIN, begun
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

LOST_CAUSE_LIMIT = 2_000
"""Characters that are kept of the cause for which an attempt was lost."""

MINE = "#execution = :execution"
"""The condition that this execution holds the lease."""

HELD = {"held": jsonata(REDRIVEN)}
"""
`Assign` of every state that makes sure of the lease: `$held` is in which life of the execution it did so.

States that scale the fleet act only where `$held` is of the present life, see `REDRIVEN`.
"""

_EXECUTION_NAME = {"#execution": contract.EXECUTION}
_EXECUTION_VALUE = {":execution": {"S": jsonata("$states.context.Execution.Id")}}


def reserve(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """
    Build the state that takes the lease of `$eligible_fleets[0]`, or fails with `TRANSACTION_CANCELED`.

    Free is a fleet whose lease is missing, or names no execution, or has been expired for so long that every node of
    its last holder has taken itself out. A lease without an execution is none of a state machine's: it is what a node
    writes that renews a lease which is gone. The same run may take a fleet twice, because the answer of a write that
    succeeded can get lost.

    Sets `$fleet`, and tells the run's item of it in the same transaction: at no time does a run hold a fleet that its
    item does not name.
    """
    table = ledger.table.table_name
    # Nodes obey this whatever happens: it is the time in which everything goes as slowly as it may.
    forming = f"($request.{contract.MAX_RESTARTS} + 1) * $eligible_fleets[0].longest"
    longest = f"$request.{contract.MAX_RUNTIME_SECONDS} + {forming} + {timeouts.without_training.to_seconds()}"
    take = {
        "TableName": table,
        "Item": {
            **fleet_key("$eligible_fleets[0].id"),
            contract.RUN: {"S": jsonata("$run")},
            contract.RUN_ID: {"S": jsonata("$run_id")},
            contract.ATTEMPT: {"N": jsonata("$string($attempt)")},
            contract.EXECUTION: {"S": jsonata("$states.context.Execution.Id")},
            contract.ACQUIRED_AT: {"N": jsonata(f"$string({NOW})")},
            contract.EXPIRES_AT: {"N": jsonata(f"$string({NOW} + {timeouts.hold.to_seconds()})")},
            contract.ENDS_BY: {"N": jsonata(f"$string({NOW} + {longest})")},
            contract.LEADER_MARKET: {"S": jsonata("$eligible_fleets[0].leader_market")},
        },
        "ConditionExpression": f"attribute_not_exists(#execution) OR {MINE} OR #expiry < :abandoned",
        "ExpressionAttributeNames": {
            "#expiry": contract.EXPIRES_AT,
            **_EXECUTION_NAME,
        },
        "ExpressionAttributeValues": {
            ":abandoned": {"N": jsonata(f"$string({NOW} - {timeouts.lease_timeout.to_seconds()})")},
            **_EXECUTION_VALUE,
        },
    }
    tell = {
        "TableName": table,
        "Key": RUN_KEY,
        "UpdateExpression": "SET #fleet = :fleet, #stage = :stage, #times = :times",
        "ExpressionAttributeNames": {
            "#fleet": contract.FLEET,
            "#stage": contract.STAGE,
            "#times": contract.TIMES_JSON,
        },
        "ExpressionAttributeValues": {
            ":fleet": {"S": jsonata("$eligible_fleets[0].id")},
            ":stage": {"S": contract.STAGE_STARTING},
            ":times": {"S": jsonata("$string($merge([$times, {'reserved_at': $now()}]))")},
        },
    }
    return call_aws(
        scope,
        "Reserve a fleet",
        service="dynamodb",
        action="transactWriteItems",
        # The permission is that of the writes inside; DynamoDB has no action of the transaction's own.
        iam_action="dynamodb:PutItem",
        parameters={"TransactItems": [{"Put": take}, {"Update": tell}]},
        resources=[ledger.table.table_arn],
        assign={
            "fleet": jsonata("$eligible_fleets[0]"),
            "times": now_as("reserved_at"),
            "search": jsonata(begun("$eligible_fleets[0].plan")),
            **HELD,
        },
        # A fleet that is taken goes to the next one at once.
        answers=[TRANSACTION_CANCELED],
    )


def hold_to_start(scope: Construct, *, ledger: Ledger, seconds: Duration) -> sfn.TaskStateBase:
    """
    Build the state that renews the lease of `$fleet` for nodes of `$attempt`; fails as `hold` does.

    A fleet that was emptied gets another attempt: who led it, and all who were counted in it, are gone.
    """
    return update_lease(
        scope,
        "Hold the fleet to start",
        ledger=ledger,
        update="SET #expiry = :expiry, #attempt = :attempt",
        names={"#expiry": contract.EXPIRES_AT, "#attempt": contract.ATTEMPT},
        values={
            ":expiry": {"N": jsonata(f"$string({NOW} + {seconds.to_seconds()})")},
            ":attempt": {"N": jsonata("$string($attempt)")},
        },
        assign=HELD,
    )


def hold(
    scope: Construct, *, ledger: Ledger, seconds: Duration, assign: Mapping[str, Any] | None = None
) -> sfn.TaskStateBase:
    """
    Build the state that renews the lease of `$fleet`, or fails with `CONDITION_FAILED` if somebody else has it.

    Args:
        scope: Of the state.
        ledger: Where the lease is.
        seconds: How long it holds then.
        assign: Variables set then, beside `$held`.
    """
    return update_lease(
        scope,
        "Hold the fleet",
        ledger=ledger,
        update="SET #expiry = :expiry",
        names={"#expiry": contract.EXPIRES_AT},
        values={":expiry": {"N": jsonata(f"$string({NOW} + {seconds.to_seconds()})")}},
        assign={**HELD, **(assign or {})},
    )


def begin_the_next_attempt(scope: Construct, *, ledger: Ledger, seconds: Duration) -> sfn.TaskStateBase:
    """
    Build the state that gives the lease of `$fleet` to the run's next attempt, and notes the one that was lost.

    From then on whoever led the lost attempt can neither renew the lease nor lead again; nodes that live see the new
    attempt and join it. Fails with `CONDITION_FAILED` if somebody else has the fleet.
    """
    return update_lease(
        scope,
        "Begin the next attempt",
        ledger=ledger,
        update="SET #expiry = :expiry, #attempt = :attempt",
        names={"#expiry": contract.EXPIRES_AT, "#attempt": contract.ATTEMPT},
        values={
            ":expiry": {"N": jsonata(f"$string({NOW} + {seconds.to_seconds()})")},
            ":attempt": {"N": jsonata("$string($attempt + 1)")},
        },
        assign={
            "attempt": jsonata("$attempt + 1"),
            "lost_attempts": jsonata(
                f"""$append($lost_attempts, [{{
  'attempt': $attempt, 'error': $outcome.error, 'cause': $substring($outcome.cause, 0, {LOST_CAUSE_LIMIT}), 'at': $now()
}}])"""
            ),
            "outcome": {"succeeded": False, "error": jsonata("''"), "cause": jsonata("''")},
            "search": jsonata(BEGUN_AGAIN),
            # The milestones of the attempt that was lost are no longer the run's.
            "times": jsonata(
                """$merge([
  $sift($times, function($time, $name) { $not($name in ['ring_at', 'trained_at', 'released_at', 'failed_at']) }),
  {'restarted_at': $now()}
])"""
            ),
            **HELD,
        },
    )


def release(
    scope: Construct, *, ledger: Ledger, assign: Mapping[str, Any] | None = None, outputs: Any = NO_OUTPUT
) -> sfn.TaskStateBase:
    """
    Build the state that gives the empty `$fleet` back, if and only if this execution holds it.

    Args:
        ledger: Where the lease is.
        assign: Variables set then.
        outputs: The state's output then.
    """
    return call_aws(
        scope,
        "Release the fleet",
        service="dynamodb",
        action="deleteItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": fleet_key("$fleet.id"),
            "ConditionExpression": MINE,
            "ExpressionAttributeNames": _EXECUTION_NAME,
            "ExpressionAttributeValues": _EXECUTION_VALUE,
        },
        resources=[ledger.table.table_arn],
        assign=assign,
        outputs=outputs,
        retries=8,
        answers=[CONDITION_FAILED],
    )


def fleet_key(fleet: str) -> dict[str, dict[str, str]]:
    """Write the key of a lease as DynamoDB takes it; *fleet* is the expression of the fleet's name."""
    return {
        contract.PARTITION_KEY: {"S": jsonata(f"'{contract.FLEET_PREFIX}' & {fleet}")},
        contract.SORT_KEY: {"S": contract.LEASE_SORT_KEY},
    }


def update_lease(
    scope: Construct,
    name: str,
    *,
    ledger: Ledger,
    update: str,
    names: Mapping[str, str],
    values: Mapping[str, Any],
    condition: str = MINE,
    assign: Mapping[str, Any] | None = None,
    retries: int = 3,
) -> sfn.TaskStateBase:
    return update_item(
        scope,
        name,
        ledger=ledger,
        key=fleet_key("$fleet.id"),
        update=update,
        condition=condition,
        names={**_EXECUTION_NAME, **names},
        values={**_EXECUTION_VALUE, **values},
        assign=assign,
        retries=retries,
    )
