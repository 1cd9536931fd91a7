"""Requests to AWS that fail because a test wants them to: in front of everything that answers them."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterable
from typing import Any

from horovod_local.shared.api_calls import read_body, read_call, refuse
from horovod_local.shared.faults import DROP, TRANSACTION_CANCELED, FaultBox

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

_log = logging.getLogger(__name__)


class ApiFaults:
    """
    Answers the requests that a fault is for as the fault says, and hands on all others.

    Args:
        aws: Answers what does not fail.
        box: The faults in force.
    """

    def __init__(self, aws: Application, *, box: FaultBox) -> None:
        self._aws = aws
        self._box = box

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        call = read_call(environ)
        if call is None:
            return self._aws(environ, start_response)
        fault = self._box.strike(service=call.service, operation=call.operation, caller=call.caller, state=call.state)
        if fault is None or fault.error is None:
            return self._aws(environ, start_response)
        _log.info("fault: %s.%s of %s answered with %s", call.service, call.operation, call.caller, fault.error)
        # What is not read now would be taken for the connection's next request.
        body = read_body(environ)
        if fault.error == DROP:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("dropped because a fault says so")
        answer = refuse(
            call,
            method=environ["REQUEST_METHOD"],
            code=fault.error,
            status=fault.status,
            **_words(fault.error, body),
        )
        start_response(answer.status, answer.headers)
        return [answer.body]


def _words(error: str, body: bytes) -> dict[str, Any]:
    """
    Say why; a cancelled transaction has a reason for each of its actions, in their order.

    DynamoDB API Reference, TransactWriteItems: "CancellationReasons" with the code `TransactionConflict`, and `None`
    for what was not its cause.
    """
    if error != TRANSACTION_CANCELED:
        return {"message": "The local cloud was told to refuse this request."}
    actions = len(json.loads(body or b"{}").get("TransactItems", [None]))
    codes = ["TransactionConflict", *["None"] * (actions - 1)]
    conflict = {"Code": codes[0], "Message": "Transaction is ongoing for the item"}
    return {
        "message": "Transaction cancelled, please refer cancellation reasons for specific reasons "
        f"[{', '.join(codes)}]",
        "CancellationReasons": [conflict, *({"Code": code} for code in codes[1:])],
    }
