"""
States that take, renew and release a fleet's lease.

Only the holder of the lease scales a fleet: a run, the clean-up or the reaper. Every write below is conditional, so
that none of them acts on a fleet that another execution has taken.
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
)
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow.capacity_search import BEGUN_AGAIN, TO_START, begun
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

LOST_CAUSE_LIMIT = 2_000
"""Characters that are kept of the cause of a lost attempt."""

MINE = "#execution = :execution"
"""Condition that this execution holds the lease."""

HELD = {"held": jsonata(REDRIVEN)}
"""
`Assign` of every state that checks the lease: `$held` is the number of redrives at that time.

States that scale the fleet fail if the execution was redriven since, see `REDRIVEN`.
"""

_EXECUTION_NAME = {"#execution": contract.EXECUTION}
_EXECUTION_VALUE = {":execution": {"S": jsonata("$states.context.Execution.Id")}}


def reserve(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """
    Build the state that takes the lease of `$eligible_fleets[0]`, or fails with `TRANSACTION_CANCELED`.

    A fleet is free if its lease is missing, has no execution, or expired so long ago that every node of its last holder
    has terminated itself. A lease without an execution is not from a state machine: a node makes one by renewing a
    lease that no longer exists. A run may take the same fleet twice, because the answer to a successful write can get
    lost.

    It sets `$fleet`, and in the same transaction records the fleet in the run's item, so that a run never holds a fleet
    that its item does not name.
    """
    table = ledger.table.table_name
    # The dead-man's switch enforces this maximum, in which every part of the run may take its longest time.
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
            contract.LEADER_MARKET: {"S": jsonata("$eligible_fleets[0].plan[0].leader_market")},
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
            ":times": {"S": jsonata("$string($merge([{'reserved_at': $now()}, $times]))")},
        },
    }
    return call_aws(
        scope,
        "Reserve a fleet",
        service="dynamodb",
        action="transactWriteItems",
        # A transaction needs the permissions of its writes; it has no IAM action itself.
        iam_action="dynamodb:PutItem",
        parameters={"TransactItems": [{"Put": take}, {"Update": tell}]},
        resources=[ledger.table.table_arn],
        assign={
            "fleet": jsonata("$eligible_fleets[0]"),
            "times": jsonata("$merge([{'reserved_at': $now()}, $times])"),
            "search": jsonata(begun("$eligible_fleets[0].plan")),
            **HELD,
        },
        # If the fleet is taken, the run tries the next one without a retry.
        answers=[TRANSACTION_CANCELED],
    )


def hold_to_start(scope: Construct, *, ledger: Ledger, seconds: Duration) -> sfn.TaskStateBase:
    """
    Build the state that renews the lease of `$fleet` for nodes of `$attempt`; it fails like `hold`.

    After the fleet was emptied, `$attempt` is a new one, in which earlier leaders and nodes do not count. An attempt of
    the capacity plan may have another market for its leaders.
    """
    return update_lease(
        scope,
        "Hold the fleet to start",
        ledger=ledger,
        update="SET #expiry = :expiry, #attempt = :attempt, #market = :market",
        names={"#expiry": contract.EXPIRES_AT, "#attempt": contract.ATTEMPT, "#market": contract.LEADER_MARKET},
        values={
            ":expiry": {"N": jsonata(f"$string({NOW} + {seconds.to_seconds()})")},
            ":attempt": {"N": jsonata("$string($attempt)")},
            ":market": {"S": jsonata("$search.attempt.leader_market")},
        },
        assign={"search": TO_START, **HELD},
    )


def hold(
    scope: Construct, *, ledger: Ledger, seconds: Duration, assign: Mapping[str, Any] | None = None
) -> sfn.TaskStateBase:
    """
    Build the state that renews the lease of `$fleet`, or fails with `CONDITION_FAILED` if another execution has it.

    Args:
        scope: Scope of the state.
        ledger: The training's ledger.
        seconds: How long the renewed lease is valid.
        assign: Variables to set in addition to `$held`.
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
    Build the state that gives the lease of `$fleet` to the run's next attempt; the lost one joins `$lost_attempts`.

    From then on the leader of the lost attempt can neither renew the lease nor lead again; the remaining nodes see the
    new attempt and join it. The state fails with `CONDITION_FAILED` if another execution has the fleet.
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
            # Remove the times of the lost attempt.
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
    Build the state that releases the empty `$fleet`, if this execution holds it.

    Args:
        scope: Scope of the state.
        ledger: The training's ledger.
        assign: Variables to set.
        outputs: Output of the state.
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
    """Return the key of a lease in DynamoDB's JSON; *fleet* is the expression of the fleet's name."""
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
