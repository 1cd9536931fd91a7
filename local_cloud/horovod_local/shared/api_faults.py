"""WSGI middleware that injects faults into AWS requests."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any

from horovod_local.shared.api_calls import error_answer, read_body, read_call
from horovod_local.shared.faults import DROP, TRANSACTION_CANCELED, ActiveFaults

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_log = logging.getLogger(__name__)


class ApiFaults:
    """
    Delays, fails or drops requests that match an active fault, and passes on all others.

    Args:
        aws: Answers the requests that do not fail.
        active: The active faults.
    """

    def __init__(self, aws: Application, *, active: ActiveFaults) -> None:
        self._aws = aws
        self._active = active

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = read_call(environ)
        if call is None:
            return self._aws(environ, start_response)
        fault = self._active.apply(service=call.service, operation=call.operation, caller=call.caller, state=call.state)
        if fault is None or fault.error is None:
            return self._aws(environ, start_response)
        _log.info("fault: %s.%s of %s answered with %s", call.service, call.operation, call.caller, fault.error)
        # An unread body would be taken for the connection's next request.
        body = read_body(environ)
        if fault.error == DROP:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("dropped by an injected fault")
        answer = error_answer(
            call,
            method=environ["REQUEST_METHOD"],
            code=fault.error,
            status=fault.status,
            **_error_members(fault.error, body),
        )
        start_response(answer.status, answer.headers)
        return [answer.body]


def _error_members(error: str, body: bytes) -> dict[str, Any]:
    """
    Return message and further members of an error.

    A cancelled transaction has a reason for each of its actions, in order. DynamoDB API Reference, TransactWriteItems:
    "CancellationReasons" have the code `TransactionConflict`, or `None` for actions that were not the cause.
    """
    if error != TRANSACTION_CANCELED:
        return {"message": "An injected fault of the local cloud failed this request."}
    actions = len(json.loads(body or b"{}").get("TransactItems", [None]))
    codes = ["TransactionConflict", *["None"] * (actions - 1)]
    conflict = {"Code": codes[0], "Message": "Transaction is ongoing for the item"}
    return {
        "message": "Transaction cancelled, please refer cancellation reasons for specific reasons "
        f"[{', '.join(codes)}]",
        "CancellationReasons": [conflict, *({"Code": code} for code in codes[1:])],
    }
