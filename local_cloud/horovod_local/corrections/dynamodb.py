"""
DynamoDB: writes are atomic, and items, transactions and expressions have limits.

The limits are those of the DynamoDB Developer Guide, "Quotas in Amazon DynamoDB". moto itself enforces the size of
items that are put, pages of 1 MB with LastEvaluatedKey (before projection and filter), and 100 actions in a
transaction. Reads are always consistent here.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from typing import Any, Final

from horovod_local.corrections.registry import correction

MAX_ITEM_BYTES: Final = 400 * 1024
MAX_TRANSACTION_BYTES: Final = 4 * 1024 * 1024
MAX_EXPRESSION_BYTES: Final = 4 * 1024


@correction(
    moto="changes an item attribute by attribute while other requests read it and check conditions on it",
    aws="makes every write atomic together with its condition",
)
def writes_are_atomic() -> None:
    from moto.dynamodb.responses import DynamoHandler

    call_action = DynamoHandler.call_action
    lock = threading.RLock()

    def call_alone(self: Any) -> Any:
        # The lock includes building the answer, which must not show an item that changes meanwhile.
        with lock:
            return call_action(self)

    DynamoHandler.call_action = call_alone


@correction(
    moto="lets updates grow an item to any size",
    aws="refuses an update that would make an item larger than 400 KB",
)
def updated_items_have_a_limit() -> None:
    from moto.dynamodb.exceptions import MockValidationException
    from moto.dynamodb.models import DynamoDBBackend

    update_item = DynamoDBBackend.update_item

    def update_small_items(self: Any, table_name: str, key: Any, *args: Any, **kwargs: Any) -> Any:
        before = copy.deepcopy(self.get_item(table_name, key))
        item = update_item(self, table_name, key, *args, **kwargs)
        if item.size() > MAX_ITEM_BYTES:
            if before is None:
                self.delete_item(table_name, key)
            else:
                item.attrs = before.attrs
            raise MockValidationException("Item size to update has exceeded the maximum allowed size")
        return item

    DynamoDBBackend.update_item = update_small_items


@correction(
    moto="accepts transactions of any size and expressions of any length",
    aws="refuses a transaction of more than 4 MB, and an expression of more than 4 KB",
)
def transactions_and_expressions_have_limits() -> None:
    from moto.dynamodb.exceptions import MockValidationException
    from moto.dynamodb.responses import DynamoHandler

    call_action = DynamoHandler.call_action

    def call_within_limits(self: Any) -> Any:
        request = json.loads(self.body or "{}")
        for name, expression in _expressions(request):
            size = len(expression.encode())
            if size > MAX_EXPRESSION_BYTES:
                raise MockValidationException(
                    f"Invalid {name}: Expression size has exceeded the maximum allowed size; expression size: {size}"
                )
        actions = request.get("TransactItems", ())
        if sum(len(json.dumps(action, separators=(",", ":")).encode()) for action in actions) > MAX_TRANSACTION_BYTES:
            raise MockValidationException("Transaction request size has exceeded the maximum allowed size of 4 MB")
        return call_action(self)

    DynamoHandler.call_action = call_within_limits


def _expressions(value: Any) -> Iterator[tuple[str, str]]:
    """Yield name and text of every expression in a request, at whatever depth."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name.endswith("Expression") and isinstance(item, str):
                yield name, item
            elif name in ("TransactItems", "Put", "Update", "Delete", "ConditionCheck", "Get"):
                yield from _expressions(item)
    elif isinstance(value, list):
        for item in value:
            yield from _expressions(item)


CORRECTIONS = (writes_are_atomic, updated_items_have_a_limit, transactions_and_expressions_have_limits)
