"""The state that updates one item of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, call_aws
from cdk_horovod.resources.ledger import Ledger


def update_item(
    scope: Construct,
    name: str,
    *,
    ledger: Ledger,
    key: Mapping[str, Any],
    update: str,
    names: Mapping[str, str],
    values: Mapping[str, Any] | None = None,
    condition: str | None = None,
    returns: str | None = None,
    assign: Mapping[str, Any] | None = None,
    retries: int = 3,
) -> sfn.TaskStateBase:
    """
    Build the state that updates an item of the ledger.

    Args:
        scope: Scope of the state.
        name: Name of the state.
        ledger: The ledger.
        key: Key of the item in DynamoDB's JSON.
        update: `UpdateExpression`.
        names: `ExpressionAttributeNames`.
        values: `ExpressionAttributeValues`. Default: none.
        condition: `ConditionExpression`. If it is false the state fails with `CONDITION_FAILED`, without a retry.
            Default: none.
        returns: `ReturnValues`, such as `ALL_NEW`. Default: none.
        assign: Variables that the state sets.
        retries: See `call_aws`.
    """
    parameters = {
        "TableName": ledger.table.table_name,
        "Key": key,
        "UpdateExpression": update,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
        "ReturnValues": returns,
    }
    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="updateItem",
        parameters={parameter: value for parameter, value in parameters.items() if value is not None},
        resources=[ledger.table.table_arn],
        assign=assign,
        retries=retries,
        answers=[] if condition is None else [CONDITION_FAILED],
    )
