"""
Leases of ended runs, which clean-up and reaper read and take.

Their attributes may have unexpected values, because nodes can write `expires_at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NOW, call_aws, jsonata
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow.lease import HELD, MINE, update_lease
from horovod_node import contract


def _short(attribute: str) -> str:
    return f"(attribute_type(#{attribute}, :text) AND size(#{attribute}) <= :longest)"


_OWNED = _short(contract.EXECUTION)
"""Condition that a lease has an owner: a node can create an item with only `expires_at`, which nobody holds."""
_OWNED_VALUES = {":text": {"S": "S"}, ":longest": {"N": "1024"}}
"""Values of that condition. 1,024 is longer than any ARN of an execution and any name of a run."""
_LARGEST_NUMBER = "9" * 38 + "E87"
"""Largest number of DynamoDB (its Developer Guide, "Supported data types"): 38 digits, up to 9.9…E+125."""


def read(scope: Construct, *, ledger: Ledger, fleet: str, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
    """
    Build the state that sets `$lease`: `there`, `holder`, `execution` and `run`; missing texts are ''.

    If an attribute has a value that no state machine writes, only `there` is set: the filter excludes such items, so
    that no item is too large for the result.

    Args:
        scope: Scope of the state.
        ledger: The training's ledger.
        fleet: Expression of the fleet's name.
        assign: Further variables to set.
    """
    attributes = (contract.RUN, contract.EXECUTION, contract.RECLAIMED_FROM)
    item = "$states.result.Items[0]"

    def text(attribute: str) -> str:
        value = f"{item}.{attribute}.S"
        return f"$exists({value}) ? {value} : ''"

    return call_aws(
        scope,
        "Read the lease",
        service="dynamodb",
        action="query",
        parameters={
            "TableName": ledger.table.table_name,
            "KeyConditionExpression": "#pk = :pk AND #sk = :sk",
            "FilterExpression": f"{_OWNED} AND {_short(contract.RUN)} "
            f"AND (attribute_not_exists(#{contract.RECLAIMED_FROM}) OR {_short(contract.RECLAIMED_FROM)})",
            "ProjectionExpression": ", ".join(f"#{name}" for name in attributes),
            "ExpressionAttributeNames": {
                "#pk": contract.PARTITION_KEY,
                "#sk": contract.SORT_KEY,
                **{f"#{name}": name for name in attributes},
            },
            "ExpressionAttributeValues": {
                ":pk": {"S": jsonata(f"'{contract.FLEET_PREFIX}' & {fleet}")},
                ":sk": {"S": contract.LEASE_SORT_KEY},
                **_OWNED_VALUES,
            },
            "ConsistentRead": True,
        },
        resources=[ledger.table.table_arn],
        assign={
            "lease": jsonata(
                f"""{{
  'there': $states.result.ScannedCount > 0,
  'holder': {text(contract.RUN)},
  'execution': {text(contract.EXECUTION)},
  'run': $exists({item}.{contract.RECLAIMED_FROM}.S)
    ? {item}.{contract.RECLAIMED_FROM}.S : {text(contract.RUN)}
}}"""
            ),
            **assign,
        },
    )


def take_from(
    scope: Construct,
    *,
    ledger: Ledger,
    holder: str,
    condition: str,
    values: Mapping[str, Any],
    run: str,
    seconds: Duration,
    assign: Mapping[str, Any] | None = None,
    retries: int = 3,
) -> sfn.TaskStateBase:
    """
    Build the state that takes the lease of `$fleet` for the clean-up or the reaper; its `run_id` does not change.

    Args:
        scope: Scope of the state.
        ledger: The training's ledger.
        holder: `contract.CLEAN_UP` or `contract.REAPER`.
        condition: Condition for taking it, in which `#run`, `#execution` and `#expiry` are the lease's attributes. It
            must allow taking a lease that this execution already holds (`lease.MINE`).
        values: Values of the condition.
        run: Expression of the run that held the fleet, or of ''.
        seconds: How long the lease is valid.
        assign: Variables to set.
        retries: See `call_aws`.
    """
    return update_lease(
        scope,
        "Take the lease",
        ledger=ledger,
        update="SET #run = :holder, #execution = :execution, #expiry = :expiry, #reclaimed = :reclaimed",
        condition=condition,
        names={
            "#run": contract.RUN,
            "#expiry": contract.EXPIRES_AT,
            "#reclaimed": contract.RECLAIMED_FROM,
        },
        values={
            ":holder": {"S": holder},
            ":expiry": {"N": jsonata(f"$string({NOW} + {seconds.to_seconds()})")},
            ":reclaimed": {"S": jsonata(run)},
            **values,
        },
        assign={**HELD, **(assign or {})},
        retries=retries,
    )


def take_from_the_dead(
    scope: Construct, *, ledger: Ledger, seconds: Duration, assign: Mapping[str, Any]
) -> sfn.TaskStateBase:
    """
    Build the state that takes the lease of `$fleet` for the reaper, if no running execution holds it.

    The lease must have no owner, now and when it was read; or it must still belong to `$lease.execution`, which has
    ended (`$ended`) or has let it expire. DynamoDB checks this atomically with the write, so no renewal in between is
    missed, and the reaper need not read `expires_at`, which nodes can write: a value that is not a number counts as
    expired. A fleet that its run has released in between is not taken.
    """
    still = f"({_OWNED} AND #execution = :seen AND ((NOT attribute_type(#expiry, :number)) OR #expiry <= :before))"
    return take_from(
        scope,
        ledger=ledger,
        holder=contract.REAPER,
        condition=jsonata(f"'({MINE}) OR {still}' & ($lease.execution = '' ? ' OR (NOT {_OWNED})' : '')"),
        values={
            **_OWNED_VALUES,
            ":seen": {"S": jsonata("$lease.execution")},
            ":number": {"S": "N"},
            ":before": {"N": jsonata(f"$ended ? '{_LARGEST_NUMBER}' : $string({NOW})")},
        },
        run="$lease.run",
        seconds=seconds,
        assign=assign,
    )
