"""Reading of a run's logs from CloudWatch Logs."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.retry import keep_trying
from horovod_client.errors import InvalidInput, LogsNotFound
from horovod_client.results.log_line import LogLine
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

POLL_SECONDS: Final = 0.5
STREAMS_SECONDS: Final = 2.0
"""Interval of searches for new streams once there is one: DescribeLogStreams allows five requests a second for an
account and Region (API reference of CloudWatch Logs)."""
READS_PER_SECOND: Final = 4.0
"""Rate of GetLogEvents. Its lowest limit in any Region is ten a second for an account (quotas of CloudWatch Logs)."""
END_CHECK_SECONDS: Final = 3.0
"""Interval of checks whether the run has ended: Step Functions has lower limits than CloudWatch Logs."""
QUIET_ROUNDS: Final = 4
"""Polls without a new line after the run's end that end the reading, because the last lines may appear late."""


def pause_seconds(*, streams: int, poll_seconds: float = POLL_SECONDS) -> float:
    """
    Return the pause between two polls, in seconds; it grows with the streams, each of which takes a request.

    Args:
        streams: Number of streams.
        poll_seconds: Shortest pause; with 0 there is no pause. Default: 0.5.
    """
    return max(poll_seconds, streams / READS_PER_SECOND) if poll_seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """
    Selection of a run's log streams.

    Args:
        rank: Select this rank only. Default: rank 0; with *node*, all ranks of that node; with *agent*, no rank.
        node: Select this node only. Default: all nodes.
        agent: Also select the agents.
        all_ranks: Select all ranks.

    Raises:
        InvalidInput: If *rank* is negative, or given together with *all_ranks*.
    """

    rank: int | None = None
    node: str | None = None
    agent: bool = False
    all_ranks: bool = False

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 0:
            raise InvalidInput(f"'rank' must be at least 0, got {self.rank}")
        if self.rank is not None and self.all_ranks:
            raise InvalidInput(f"'rank' must be omitted when 'all_ranks' is given, got {self.rank}")

    def takes(self, node: str, speaker: str) -> bool:
        """Return whether the stream of this *node* and *speaker* is selected."""
        if self.node is not None and node != self.node:
            return False
        if speaker == contract.LOG_AGENT:
            return self.agent
        if not speaker.startswith(contract.LOG_RANK_PREFIX):
            return False
        if self.rank is None and (self.all_ranks or (self.node is not None and not self.agent)):
            return True
        rank = self.rank if self.rank is not None else None if self.agent else 0
        return speaker == f"{contract.LOG_RANK_PREFIX}{rank}"


@dataclass(kw_only=True)
class _Stream:
    """A log stream and the position of the next read."""

    node: str
    speaker: str
    token: dict[str, Any] = field(default_factory=dict)


class RunLogs:
    """
    Reads the log streams of one run.

    Args:
        logs: Client of the log group's Region.
        group: Name of the log group.
        run: Name of the run.
        selection: Streams to read.
    """

    def __init__(self, logs: CloudWatchLogsClient, *, group: str, run: str, selection: Selection) -> None:
        self._logs = logs
        self._group = group
        self._run = run
        self._selection = selection
        self._streams: dict[str, _Stream] = {}

    def new_lines(self, *, new_streams: bool = True) -> Iterator[LogLine]:
        """
        Read the lines since the last call from all selected streams, in the order of their times.

        Args:
            new_streams: Whether to search for new streams. Default: yes.

        Raises:
            LogsNotFound: If the log group does not exist.
        """
        for name in self._names() if new_streams else ():
            if name not in self._streams:
                _, node, speaker = name.split("/", 2)
                if self._selection.takes(node, speaker):
                    self._streams[name] = _Stream(node=node, speaker=speaker)
        return heapq.merge(
            *(self._new_lines(name, stream) for name, stream in self._streams.items()), key=lambda line: line.at
        )

    @property
    def found(self) -> bool:
        """Whether any selected stream was found yet."""
        return bool(self._streams)

    def follow(self, ended: Callable[[], bool], *, poll_seconds: float = POLL_SECONDS) -> Iterator[LogLine]:
        """
        Read existing and new lines, until the run has ended and a few polls have found no new line.

        New streams are read too, because rank 0 moves to another node when the run restarts with another leader.

        Args:
            ended: Returns whether the run has ended.
            poll_seconds: Seconds between two polls. Default: 0.5.
        """
        over, quiet = False, 0
        asked_at = looked_at = float("-inf")
        while quiet < QUIET_ROUNDS:
            if not over and time.monotonic() - asked_at >= END_CHECK_SECONDS:
                over, asked_at = keep_trying(ended), time.monotonic()
            quiet += over
            look = over or not self.found or time.monotonic() - looked_at >= STREAMS_SECONDS
            if look:
                looked_at = time.monotonic()
            for line in self.new_lines(new_streams=look):
                quiet = 0
                yield line
            if quiet < QUIET_ROUNDS:
                time.sleep(pause_seconds(streams=len(self._streams), poll_seconds=poll_seconds))

    def _names(self) -> Iterator[str]:
        node = self._selection.node
        prefix = f"{self._run}/" if node is None else f"{self._run}/{node}/"
        token: dict[str, Any] = {}
        while True:
            try:
                answer = keep_trying(
                    lambda token=token: self._logs.describe_log_streams(  # type: ignore[misc]
                        logGroupName=self._group, logStreamNamePrefix=prefix, **token
                    )
                )
            except self._logs.exceptions.ResourceNotFoundException as error:
                raise LogsNotFound(
                    f"there is no log group '{self._group}': deploy the stack again to create it"
                ) from error
            for stream in answer["logStreams"]:
                yield stream["logStreamName"]
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}

    def _new_lines(self, name: str, stream: _Stream) -> Iterator[LogLine]:
        """Read pages until the token stays the same; an empty page is not the end."""
        while True:
            answer = keep_trying(
                lambda: self._logs.get_log_events(
                    logGroupName=self._group, logStreamName=name, startFromHead=True, **stream.token
                )
            )
            for event in answer["events"]:
                yield LogLine(
                    at=event["timestamp"] / 1000,
                    node=stream.node,
                    speaker=stream.speaker,
                    text=event["message"].rstrip("\r\n"),
                )
            token = {"nextToken": answer["nextForwardToken"]}
            if token == stream.token:
                return
            stream.token = token
