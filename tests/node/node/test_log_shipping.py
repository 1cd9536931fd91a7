"""Lines on their way to CloudWatch Logs, on an emulated one and on one that fails."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from horovod_node import contract
from horovod_node.node import log_shipping
from horovod_node.node.log_shipping import (
    BATCH_BYTES,
    BATCH_EVENTS,
    EVENT_BYTES,
    EVENT_OVERHEAD_BYTES,
    LogHandler,
    LogShipping,
)
from support.node.emulated_aws import Aws
from support.node.rings import Ring, wait_for
from support.waiting import SECONDS

RANK_0 = f"{contract.LOG_RANK_PREFIX}0"


class PlayedLogs:
    """CloudWatch Logs as far as shipping speaks to it; keeps what it took, and fails as often as it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[str]]] = []
        self.streams: list[str] = []
        self.failures: list[Exception] = []
        self.asked = 0

    def create_log_stream(self, **request: str) -> None:
        assert request["logGroupName"] == "nodes"
        if request["logStreamName"] in self.streams:
            raise refusal("ResourceAlreadyExistsException")
        self.streams.append(request["logStreamName"])

    def put_log_events(self, **request: Any) -> None:
        events = request["logEvents"]
        assert request["logGroupName"] == "nodes"
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        assert sorted(events, key=lambda event: event["timestamp"]) == events
        self.batches.append((request["logStreamName"], [event["message"] for event in events]))

    def lines(self, stream: str) -> list[str]:
        return [line for name, batch in self.batches if name == stream for line in batch]


def refusal(code: str) -> ClientError:
    """Spell an error as botocore raises it."""
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "PutLogEvents")


@pytest.fixture
def played() -> PlayedLogs:
    """Play CloudWatch Logs."""
    return PlayedLogs()


@pytest.fixture
def begin(played: PlayedLogs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LogShipping]]:
    """Start shipping to the played CloudWatch, which does not wait for more lines; closed after the test."""
    begun: list[LogShipping] = []

    def begin(**limits: int) -> LogShipping:
        shipping = LogShipping(played, group="nodes", flush_seconds=0.01, **limits)  # type: ignore[arg-type]
        begun.append(shipping)
        shipping.start()
        return shipping

    # It sends on when closing has lost patience, and the test would read too early.
    monkeypatch.setattr(log_shipping, "CLOSE_SECONDS", SECONDS)
    yield begin
    for shipping in begun:
        shipping.close()


def messages(logs: Any, group: str, stream: str) -> list[str]:
    """Read a stream from its beginning; nothing if it is not there yet."""
    try:
        answer = logs.get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True)
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [event["message"] for event in answer["events"]]


@pytest.fixture
def group(aws: Aws) -> str:
    """Make a log group."""
    name = f"nodes-{uuid.uuid4().hex[:8]}"
    aws.client("logs").create_log_group(logGroupName=name)
    return name


@pytest.mark.ring
@pytest.mark.parametrize("echo", [False, True])
def test_ranks_line_is_readable_while_the_rank_runs(ring: Ring, group: str, echo: bool) -> None:
    """What a script prints is in its rank's stream while it trains, and printed only when that is asked for."""
    # GIVEN
    logs = ring.aws.client("logs")
    ring.submit(gpus=1, entry_point="count_steps.py")

    # WHEN
    ring.start(nodes=1, **{contract.ENV_LOG_GROUP: group}, **({contract.ENV_ECHO: "1"} if echo else {}))
    ring.until_training()

    # THEN
    (agent,) = ring.agents
    rank, own = (contract.log_stream(ring.run, "node-1", speaker) for speaker in (RANK_0, contract.LOG_AGENT))
    wait_for("the rank's line", lambda: messages(logs, group, rank) == ["counting from 1"])
    assert agent.rank()
    assert ("[0] counting from 1" in agent.text()) is echo
    joins = f"node-1 joins attempt 1 of run {ring.run}"
    assert joins in messages(logs, group, own)
    assert joins in agent.text()

    # WHEN the fleet is released
    ring.release()
    agent.exit_code()

    # THEN the agent's last word is there, too
    assert messages(logs, group, own)[-1].startswith("leaving: nobody holds fleet")


def test_lines_reach_cloudwatch_while_the_agent_lives(aws: Aws, group: str) -> None:
    """What a rank and the agent say is in streams of their own, in order, though nothing was closed."""
    # GIVEN
    logs = aws.client("logs")
    shipping = LogShipping(logs, group=group)
    logger = logging.getLogger(f"test.{group}")
    logger.propagate = False
    logger.addHandler(LogHandler(shipping))
    shipping.start()

    def said(speaker: str) -> list[str]:
        return messages(logs, group, contract.log_stream("run-1", "node-1", speaker))

    with closing(shipping):
        # WHEN
        logger.warning("joins attempt %d", 1)
        shipping.join(run="run-1", node="node-1")
        shipping.take(RANK_0, "loss 0.5\n")
        shipping.take(RANK_0, "\n")
        shipping.take(RANK_0, "größer\n")

        # THEN
        wait_for("the rank's lines", lambda: said(RANK_0) == ["loss 0.5", " ", "größer"])
        wait_for("the agent's line", lambda: said(contract.LOG_AGENT) == ["joins attempt 1"])


def test_lines_wait_until_the_run_is_known(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """A line from before the node joined a run is in that run's stream."""
    # GIVEN
    shipping = begin()
    shipping.take(contract.LOG_AGENT, "early")
    time.sleep(0.05)

    # WHEN
    before = played.asked
    shipping.join(run="run-1", node="i-1")
    shipping.close()

    # THEN
    assert (before, played.batches) == (0, [("run-1/i-1/agent", ["early"])])


def test_a_node_without_a_run_says_nothing(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """Lines of an agent that never joined a run have no stream, and do not keep it from ending."""
    # GIVEN
    shipping = begin()

    # WHEN
    shipping.take(contract.LOG_AGENT, "nobody holds the fleet")
    shipping.close()

    # THEN
    assert (played.streams, played.batches) == ([], [])


def test_batches_keep_to_the_limits(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """No batch has more bytes or events than CloudWatch takes, a line that is too long is cut, and none is lost."""
    # GIVEN
    shipping = begin()
    long, many = "ä" * EVENT_BYTES, 2 * BATCH_EVENTS + 1

    # WHEN
    for _ in range(9):
        shipping.take("rank-1", long)
    for number in range(many):
        shipping.take(RANK_0, str(number))
    shipping.join(run="run-1", node="i-1")
    shipping.close()

    # THEN
    sizes = [sum(len(line.encode()) + EVENT_OVERHEAD_BYTES for line in batch) for _, batch in played.batches]
    assert max(sizes) <= BATCH_BYTES
    assert max(len(batch) for _, batch in played.batches) == BATCH_EVENTS
    assert played.lines("run-1/i-1/rank-1") == ["ä" * (EVENT_BYTES // 2)] * 9
    assert played.lines("run-1/i-1/rank-0") == [str(number) for number in range(many)]


def test_lines_are_sent_again_when_cloudwatch_was_away(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """Lines that CloudWatch did not take come with the next flush, once each."""
    # GIVEN
    played.failures = [refusal("ThrottlingException"), EndpointConnectionError(endpoint_url="https://logs")]
    shipping = begin()
    shipping.join(run="run-1", node="i-1")

    # WHEN
    shipping.take(RANK_0, "one")
    wait_for("two failures", lambda: not played.failures)
    shipping.take(RANK_0, "two")

    # THEN
    wait_for("both lines", lambda: played.lines("run-1/i-1/rank-0") == ["one", "two"])


def test_a_full_buffer_drops_lines_and_says_so(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """What there was no room for is counted in the stream that it would have been in."""
    # GIVEN
    shipping = begin(buffer_lines=2)
    for line in ("one", "two", "three", "four"):
        shipping.take(RANK_0, line)

    # WHEN
    shipping.join(run="run-1", node="i-1")

    # THEN
    told = ["one", "two", "[2 lines were dropped here]"]
    wait_for("the count", lambda: played.lines("run-1/i-1/rank-0") == told)


def test_a_batch_that_is_refused_for_good_is_dropped(played: PlayedLogs, begin: Callable[..., LogShipping]) -> None:
    """Lines that CloudWatch will never take do not keep back those that it does."""
    # GIVEN
    played.failures = [refusal("InvalidParameterException")]
    shipping = begin()
    shipping.join(run="run-1", node="i-1")

    # WHEN
    shipping.take(RANK_0, "strange")

    # THEN
    told = ["[1 lines were dropped here]"]
    wait_for("the count", lambda: played.lines("run-1/i-1/rank-0") == told)


def test_the_agent_ends_though_cloudwatch_does_not_answer(
    played: PlayedLogs, begin: Callable[..., LogShipping]
) -> None:
    """The last flush is tried once, and then the agent ends."""
    # GIVEN
    played.failures = [EndpointConnectionError(endpoint_url="https://logs")] * 99
    shipping = begin()
    shipping.join(run="run-1", node="i-1")

    # WHEN
    shipping.take(RANK_0, "lost")
    shipping.close()

    # THEN
    assert played.batches == []
