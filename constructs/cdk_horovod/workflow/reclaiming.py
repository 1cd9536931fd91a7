"""How the reaper reads a fleet's lease, and takes it from the dead, whatever a script may have written into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow import lease
from cdk_horovod.workflow.states import NOW, call_aws, jsonata
from horovod_node import contract


def _short(attribute: str) -> str:
    return f"(attribute_type(#{attribute}, :text) AND size(#{attribute}) <= :longest)"


_OWNED: Final = f"{_short(contract.EXECUTION)} AND {_short(contract.RUN)}"
"""The condition that a lease has an owner at all: nodes can write `expires_at` of a lease that nobody holds."""
_OWNED_VALUES: Final = {":text": {"S": "S"}, ":longest": {"N": "1024"}}
"""Longer than any ARN of an execution and than any name of a run."""
_LARGEST_NUMBER: Final = "9" * 38 + "E87"
"""Of DynamoDB (its Developer Guide, "Supported data types"): 38 digits, up to 9.9…E+125."""


def read_the_lease(scope: Construct, *, ledger: Ledger, fleet: str, assign: Mapping[str, Any]) -> sfn.TaskStateBase:
    """
    Build the state that sets `$lease`: `there`, `holder`, `execution` and `run`; texts are '' where there is none.

    It reads what state machines write. Of a lease that has other things in these attributes it only says that it is
    `there`: with the filter no item is too large to be read.

    Args:
        ledger: Where the lease is.
        fleet: Expression of the fleet's name.
        assign: More variables set then.
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
            "FilterExpression": f"{_OWNED} "
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


def take_from_the_dead(
    scope: Construct, *, ledger: Ledger, seconds: Duration, assign: Mapping[str, Any]
) -> sfn.TaskStateBase:
    """
    Build the state that takes the lease of `$fleet` for the reaper, if nobody lives who holds it.

    That is if it has no owner, or if it is still that of `$lease.execution`, which does not run any more (`$ended`) or
    has let it expire. DynamoDB compares when it writes, so that no renewal in between is missed, and the reaper needs
    not read the one attribute that nodes may write: one that is no number has expired.
    """
    return lease.take_from(
        scope,
        ledger=ledger,
        holder=contract.REAPER,
        condition=f"(NOT ({_OWNED})) OR (#execution = :seen AND ((NOT attribute_type(#expiry, :number)) OR "
        "#expiry <= :before))",
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
