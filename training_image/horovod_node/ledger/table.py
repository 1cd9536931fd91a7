"""The ledger's table: calls that are repeated while DynamoDB throttles or is unreachable, and conditional writes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from horovod_node import contract
from horovod_node.node.errors import LedgerUnreachableError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

_CONDITION_FAILED = "ConditionalCheckFailedException"
_PASSING_ERRORS = (
    "InternalServerError",
    "LimitExceededException",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ServiceUnavailable",
    "ThrottlingException",
    "TransactionConflictException",
)
"""Error codes after which the same call may succeed later (Developer Guide, "Error handling with DynamoDB")."""
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0


class LedgerTable:
    """
    Calls DynamoDB; every read is consistent.

    Args:
        dynamodb: boto3 client.
        table: Name of the ledger's table.
        patience_seconds: How long a call is repeated while DynamoDB throttles or does not answer. Default: 300.
    """

    def __init__(self, dynamodb: DynamoDBClient, *, table: str, patience_seconds: float = 300) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._patience_seconds = patience_seconds

    def _read(self, key: tuple[str, str]) -> dict[str, Any] | None:
        answer = self._ask(
            lambda: self._dynamodb.get_item(TableName=self._table, Key=item_key(key), ConsistentRead=True)
        )
        return answer.get("Item")

    def _list(self, prefix: tuple[str, str]) -> list[dict[str, Any]]:
        def pages() -> list[dict[str, Any]]:
            paginator = self._dynamodb.get_paginator("query")
            answers = paginator.paginate(
                TableName=self._table,
                ConsistentRead=True,
                KeyConditionExpression="#pk = :pk AND begins_with(#sk, :sk)",
                ExpressionAttributeNames={"#pk": contract.PARTITION_KEY, "#sk": contract.SORT_KEY},
                ExpressionAttributeValues={":pk": {"S": prefix[0]}, ":sk": {"S": prefix[1]}},
            )
            return [item for answer in answers for item in answer["Items"]]

        return self._ask(pages)

    def _write_once(self, key: tuple[str, str], attributes: Mapping[str, Any]) -> bool:
        """Write an item that must not exist yet; return `False` if it does."""
        return self._meets_its_condition(
            lambda: self._dynamodb.put_item(
                TableName=self._table,
                Item={**item_key(key), **attributes},
                ConditionExpression="attribute_not_exists(#pk)",
                ExpressionAttributeNames={"#pk": contract.PARTITION_KEY},
            )
        )

    def _meets_its_condition(self, write: Callable[[], object]) -> bool:
        try:
            self._ask(write)
        except ClientError as error:
            if error.response["Error"]["Code"] == _CONDITION_FAILED:
                return False
            raise
        return True

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        """Repeat *call* while DynamoDB throttles or is unreachable: botocore's own retries last only seconds."""
        give_up_at = time.monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except ParamValidationError:
                raise
            except ClientError as error:
                if error.response["Error"]["Code"] not in _PASSING_ERRORS:
                    raise
                failure: Exception = error
            except BotoCoreError as error:
                failure = error
            if time.monotonic() + pause > give_up_at:
                raise LedgerUnreachableError(
                    f"the ledger, DynamoDB table {self._table}, failed: {failure}"
                ) from failure
            _log.warning("the ledger failed, next try in %.1f s: %s", pause, failure)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def item_key(key: tuple[str, str]) -> dict[str, Any]:
    """Return one of the contract's keys in DynamoDB's format."""
    return {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}


def removal(remove_at: int) -> dict[str, Any]:
    """Return the time-to-live attribute for *remove_at*; empty if that is 0, for never."""
    return {contract.TTL_ATTRIBUTE: {"N": str(remove_at)}} if remove_at else {}
