"""What a node calls, on loopback: an emulated AWS, the answers to the state machine's tasks, and instance metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import boto3

from horovod_local.instances.instance_metadata import InstanceMetadata
from horovod_node import contract
from horovod_node.ledger.ledger import Ledger

REGION = "us-east-1"


class TaskAnswers:
    """The part of Step Functions that nodes speak to, over HTTP; keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any], float]] = []
        self.gone: set[str] = set()
        """Tokens whose task is over."""
        self.busy: set[str] = set()
        """Tokens whose next call is refused for now."""
        answers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                action = self.headers["X-Amz-Target"].removeprefix("AWSStepFunctions.")
                gone = body["taskToken"] in answers.gone
                answers.calls.append((action, body, time.time()))
                busy = body["taskToken"] in answers.busy
                answers.busy.discard(body["taskToken"])
                answer = {"__type": "TaskTimedOut", "message": "the task is over"} if gone else {}
                answer |= {"__type": "AccessDeniedException", "message": "not now"} if busy else {}
                text = json.dumps(answer).encode()
                self.send_response(400 if gone or busy else 200)
                self.send_header("Content-Type", "application/x-amz-json-1.0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, token: str) -> dict[str, Any] | None:
        """Give the success or failure that *token* got, if it got one."""
        for action, body, _ in list(self.calls):
            if body["taskToken"] == token and action != "SendTaskHeartbeat":
                return body
        return None

    def heartbeats(self, token: str) -> list[float]:
        """Give the times of the heartbeats that *token* got."""
        return [
            at for action, body, at in list(self.calls) if body["taskToken"] == token and action == "SendTaskHeartbeat"
        ]


def id_of(run: str) -> str:
    """Identify the run of this name that the tests of the nodes know."""
    return contract.run_id("Training", run, datetime(2026, 11, 26, 11, 2, 36, tzinfo=UTC))


@dataclass(frozen=True, kw_only=True)
class Aws:
    """A table and two buckets of one test, on the emulated AWS of the session."""

    endpoint: str
    table: str
    data_bucket: str
    model_bucket: str

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def ledger(self) -> Ledger:
        return Ledger(self.client("dynamodb"), table=self.table, patience_seconds=5)

    def put(self, key: tuple[str, str], **attributes: str | float) -> None:
        item = {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}
        item |= {
            name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in attributes.items()
        }
        self.client("dynamodb").put_item(TableName=self.table, Item=item)

    def put_ceiling(self, run: str, *, billed_seconds: float, seconds_left: float) -> None:
        """Give the run a ceiling, as the state machine does when it knows the prices."""
        now = time.time()
        self.put(
            contract.run_key(id_of(run)),
            **{
                contract.USD_PER_HOUR: 36.0,
                contract.BILLED_FROM: now - billed_seconds,
                contract.CEILING_USD: (billed_seconds + seconds_left) / 100,
                contract.CEILING_AT: now + seconds_left,
            },
        )

    def put_lease(self, fleet: str, *, run: str, attempt: int = 1, seconds: int = 600, **attributes: str | int) -> None:
        """Give the fleet to a run, as the state machine does, for some seconds."""
        now = int(time.time())
        values: dict[str, str | int] = {
            contract.RUN: run,
            contract.RUN_ID: id_of(run),
            contract.ATTEMPT: attempt,
            contract.LEADER_MARKET: contract.ON_DEMAND,
            contract.EXPIRES_AT: now + seconds,
            contract.ENDS_BY: now + 86_400,
        }
        self.put(contract.lease_key(fleet), **(values | attributes))

    def delete(self, key: tuple[str, str]) -> None:
        item = {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}
        self.client("dynamodb").delete_item(TableName=self.table, Key=item)


class MetadataService:
    """
    Instance metadata over HTTP, as the local cloud answers it; it can also be busy or away. Serves until it is closed.

    Args:
        items: Texts by path below `/latest/meta-data/`.
    """

    def __init__(self, items: Mapping[str, str]) -> None:
        self.metadata = InstanceMetadata(items)
        self.busy = 0
        """Requests that are answered with 503 first."""
        self.away = False
        """Whether every connection ends without an answer."""
        self.forgetful = False
        """Whether every token has expired when it is used."""
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                service.asked.append((self.command, self.path))
                if service.forgetful and self.command == "GET":
                    service.metadata.expire_tokens()
                status, text = service.metadata.answer(self.command, self.path, self.headers)
                # Behind the answer: what is announced while the service is away must not slip through.
                if service.away:
                    self.close_connection = True
                    return
                if service.busy:
                    service.busy -= 1
                    status, text = 503, ""
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: ARG002 - the signature is http.server's
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def tokens_given(self) -> int:
        """How often a token was asked for."""
        return sum(1 for method, _ in self.asked if method == "PUT")

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
