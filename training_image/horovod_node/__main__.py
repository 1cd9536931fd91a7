"""`python -m horovod_node`: what a training container runs. Exit codes: `contract.EXIT_*`."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

from boto3.session import Session
from botocore.config import Config

from horovod_node import contract
from horovod_node.agent import Agent
from horovod_node.errors import UsageError
from horovod_node.identify import identify
from horovod_node.ledger import Ledger

_CLIENT_CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=64,
)
"""The pool must hold every download of every file at a time."""

_LEDGER_CONFIG = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
"""The agent asks the ledger between two heartbeats: one that does not answer must not cost it a heartbeat."""


def main() -> int:
    """Run the agent and give the process's exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d horovod_node: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("horovod_node").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        node = identify(os.environ)
    except UsageError as error:
        print(f"horovod_node: {error}", file=sys.stderr)
        return contract.EXIT_USAGE
    except OSError as error:
        print(f"horovod_node: instance metadata does not answer: {error}", file=sys.stderr)
        return contract.EXIT_NODE_FAILED
    session = Session(region_name=node.region)
    agent = Agent(
        node,
        ledger=Ledger(session.client("dynamodb", config=_LEDGER_CONFIG), table=node.ledger_table),
        s3=session.client("s3", config=_CLIENT_CONFIG),
        stepfunctions=session.client("stepfunctions", config=_CLIENT_CONFIG),
        logs=session.client("logs", config=_CLIENT_CONFIG),
    )
    return agent.take_part()


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    # Raised in the main thread, wherever it is, so that every `with` on the way out stops what it started.
    sys.exit(contract.EXIT_OK)


def _end(code: int) -> NoReturn:
    # Python would wait here for the threads of a download that nobody needs any more.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _end(main())
    except SystemExit as end:
        _end(end.code if isinstance(end.code, int) else contract.EXIT_NODE_FAILED)
