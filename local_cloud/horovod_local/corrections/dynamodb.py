"""DynamoDB: one request at a time sees and changes an item."""

from __future__ import annotations

import threading
from typing import Any

from horovod_local.corrections.registry import correction


@correction(
    moto="changes an item in place, attribute by attribute, while other requests read it and check conditions on it",
    aws="makes every write, with its condition, at once: no other request sees half of it",
)
def writes_are_atomic() -> None:
    from moto.dynamodb.responses import DynamoHandler

    call_action = DynamoHandler.call_action
    lock = threading.RLock()

    def call_alone(self: Any) -> Any:
        # The answer is written out inside, too: it must not show an item that changes meanwhile.
        with lock:
            return call_action(self)

    DynamoHandler.call_action = call_alone


CORRECTIONS = (writes_are_atomic,)
