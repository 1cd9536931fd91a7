"""
`python -m horovod_node`: what a training container runs. Exit codes: `contract.EXIT_*`.

SageMaker adds an argument, `train` (developer guide, "How Amazon SageMaker Runs Your Training Image"); there is nothing
else that an agent could do, so arguments are ignored.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import NoReturn

from boto3.session import Session
from botocore.config import Config

from horovod_node import contract
from horovod_node.agent import Agent
from horovod_node.ledger.ledger import Ledger
from horovod_node.node.conduct import conduct_of, tell_platform
from horovod_node.node.ecs_task import instance_environment
from horovod_node.node.errors import UsageError
from horovod_node.node.identity import identify
from horovod_node.node.log_shipping import LogHandler, LogShipping
from horovod_node.node.rank_output import print_line, ship_lines

_CLIENT_CONFIG = Config(
    connect_timeout=5,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=64,
)
"""The pool must hold a connection for every part of every file that is downloaded at once."""

_LOGS_CONFIG = Config(connect_timeout=1, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 1})
"""Lines that CloudWatch does not accept are sent again with the next flush, and the last flush must end soon."""

_LEDGER_CONFIG = Config(connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
"""The agent reads the ledger between two heartbeats, and a slow call must not delay one."""


def main() -> int:
    """Run the agent and return the process's exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d horovod_node: %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("horovod_node").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if contract.ENV_ENGINE not in os.environ:
            os.environ.update(instance_environment() | os.environ)
        node = identify(os.environ)
        conduct = conduct_of(node, os.environ)
    except (UsageError, OSError) as error:
        print(f"horovod_node: {error}", file=sys.stderr)
        tell_platform(str(error), os.environ)
        return contract.EXIT_USAGE if isinstance(error, UsageError) else contract.EXIT_NODE_FAILED
    signal.signal(signal.SIGTERM, lambda number, frame: conduct.stop())  # noqa: ARG005 - a signal handler's signature
    session = Session(region_name=node.region)
    with _ship_lines(session, group=node.log_group) as shipping:
        agent = Agent(
            node,
            ledger=Ledger(session.client("dynamodb", config=_LEDGER_CONFIG), table=node.ledger_table),
            s3=session.client("s3", config=_CLIENT_CONFIG),
            stepfunctions=session.client("stepfunctions", config=_CLIENT_CONFIG),
            conduct=conduct,
            shipping=shipping,
            output=ship_lines(shipping, echo=os.environ.get(contract.ENV_ECHO) == "1") if shipping else print_line,
        )
        return agent.take_part()


@contextmanager
def _ship_lines(session: Session, *, group: str) -> Iterator[LogShipping | None]:
    """Send the agent's log lines to *group*, if it is not empty, while the context is open."""
    if not group:
        yield None
        return
    shipping = LogShipping(session.client("logs", config=_LOGS_CONFIG), group=group)
    logging.getLogger("horovod_node").addHandler(LogHandler(shipping))
    with closing(shipping):
        shipping.start()
        yield shipping


def _terminate(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    # Raised in the main thread, wherever it is, so that every `with` on the way out stops what it started.
    sys.exit(contract.EXIT_OK)


def _end(code: int) -> NoReturn:
    # sys.exit would wait for the threads of downloads that are no longer needed.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _end(main())
    except SystemExit as end:
        _end(end.code if isinstance(end.code, int) else contract.EXIT_NODE_FAILED)
