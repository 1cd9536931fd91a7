"""A run's lines, out of CloudWatch Logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import pytest

from horovod_client import InvalidInput, LogsNotFound, Run, RunNotFound, TrainingClient
from horovod_client.results.logs import RunLogs, Selection, pause_seconds
from horovod_node import contract
from support.fake_account import Account

GROUP = "/training/nodes"
BEGAN = int(time.time() * 1000) - 60_000

Say = Callable[[str, str, str, Iterable[tuple[int, str]]], None]


@pytest.fixture(scope="module")
def client(account: Account) -> TrainingClient:
    """Connect with clients of the fake account, and make the log group."""
    account.make_log_group(GROUP)
    return TrainingClient.from_stack(
        "Training",
        cloudformation=account.cloudformation,
        dynamodb=account.dynamodb,
        s3=account.s3,
        stepfunctions=account.stepfunctions,
        logs=account.session.client("logs", endpoint_url=account.endpoint),
    )


@pytest.fixture
def say(client: TrainingClient) -> Say:
    """Write lines, each with its milliseconds, into a stream, as a node does."""

    def write(run: str, node: str, speaker: str, lines: Iterable[tuple[int, str]]) -> None:
        logs, stream = client.clients.logs, contract.log_stream(run, node, speaker)
        if not logs.describe_log_streams(logGroupName=GROUP, logStreamNamePrefix=stream)["logStreams"]:
            logs.create_log_stream(logGroupName=GROUP, logStreamName=stream)
        events = [{"timestamp": BEGAN + at, "message": text} for at, text in lines]
        logs.put_log_events(logGroupName=GROUP, logStreamName=stream, logEvents=events)  # type: ignore[arg-type]

    return write


def test_reads_the_lines_of_a_selection_by_time(client: TrainingClient, say: Say) -> None:
    """The lines are rank 0's by default, wherever it moved, or those of a node, a rank, agents or all."""
    # GIVEN
    say("logs-1", "i-a", "rank-0", [(1, "a0 first"), (5, "a0 last\n")])
    say("logs-1", "i-a", "agent", [(0, "agent of a")])
    say("logs-1", "i-b", "rank-1", [(2, "b1")])
    say("logs-1", "i-b", "rank-0", [(7, "b0 took over")])
    say("logs-1", "i-b", "metrics", [(3, "{}")])
    say("logs-10", "i-a", "rank-0", [(4, "of another run")])
    run = Run(name="logs-1", connection=client.connection, clients=client.clients)

    # WHEN
    found = [
        [line.text for line in lines]
        for lines in (
            run.logs(),
            run.logs(rank=1),
            run.logs(node="i-b"),
            run.logs(agent=True),
            run.logs(agent=True, all_ranks=True),
        )
    ]

    # THEN
    everything = ["agent of a", "a0 first", "b1", "a0 last", "b0 took over"]
    assert found == [
        ["a0 first", "a0 last", "b0 took over"],
        ["b1"],
        ["b1", "b0 took over"],
        ["agent of a"],
        everything,
    ]


def test_follows_until_nothing_new_comes_after_the_end(client: TrainingClient, say: Say) -> None:
    """Lines and streams that come while a run is followed, or after its end, are read once each."""
    # GIVEN
    say("logs-follow", "i-a", "rank-0", [(1, "first")])
    logs = RunLogs(client.clients.logs, group=GROUP, run="logs-follow", selection=Selection())
    news = iter([("i-a", (2, "second")), ("i-b", (3, "rank 0 moved"))])
    heard: list[str] = []

    # WHEN
    for line in logs.follow(lambda: True, poll_seconds=0):
        heard.append(line.text)
        new = next(news, None)
        if new is not None:
            say("logs-follow", new[0], "rank-0", [new[1]])

    # THEN
    assert heard == ["first", "second", "rank 0 moved"]


def test_many_streams_are_read_less_often() -> None:
    """One stream is read twice a second and 32 every 8 seconds, because CloudWatch limits requests."""
    assert [pause_seconds(streams=streams) for streams in (0, 1, 2, 4, 32)] == [0.5, 0.5, 0.5, 1, 8]
    assert pause_seconds(streams=32, poll_seconds=0) == 0


def test_has_no_lines_before_there_is_a_stream(client: TrainingClient, script: object) -> None:
    """A run that has printed nothing has no lines, and a run that does not exist is named."""
    # GIVEN
    run = client.fit(str(script), gpus=4, name="logs-none")

    # THEN
    assert list(run.logs()) == []
    with pytest.raises(RunNotFound, match=r"^there is no run 'logs-never'"):
        list(Run.from_id("logs-never", client=client).logs())


def test_fails_without_a_log_group(client: TrainingClient) -> None:
    """A log group that is not there is named; a choice that contradicts itself is refused."""
    logs = RunLogs(client.clients.logs, group="/nowhere", run="logs-1", selection=Selection())
    with pytest.raises(LogsNotFound, match=r"^there is no log group '/nowhere': deploy the stack again"):
        list(logs.new_lines())
    with pytest.raises(InvalidInput, match=r"^'rank' must be omitted when 'all_ranks' is given, got 3$"):
        Selection(rank=3, all_ranks=True)
    with pytest.raises(InvalidInput, match=r"^'rank' must be at least 0, got -1$"):
        Selection(rank=-1)
