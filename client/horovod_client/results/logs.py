"""What a run's nodes and ranks print, out of CloudWatch Logs."""

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
"""New streams are looked for this often once there is one: DescribeLogStreams takes five requests a second in a Region
of an account, whoever asks (API reference of CloudWatch Logs)."""
READS_PER_SECOND: Final = 4.0
"""GetLogEvents takes ten in the Regions with the tightest limit (quotas of CloudWatch Logs), whoever asks."""
END_CHECK_SECONDS: Final = 3.0
"""Whether the run has ended is asked this often, of a service with tighter limits than the logs have."""
QUIET_ROUNDS: Final = 4
"""After the end, so many looks without a new line are the end of the lines: what nodes sent last appears late."""


def pause_seconds(*, streams: int, poll_seconds: float = POLL_SECONDS) -> float:
    """
    Give the pause between two looks at so many streams, each of which takes a request: longer for many.

    Args:
        streams: How many are read.
        poll_seconds: The shortest pause; without one, nothing waits.
    """
    return max(poll_seconds, streams / READS_PER_SECOND) if poll_seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """
    Which of a run's streams are read.

    Args:
        rank: Only this rank's. Default: rank 0's; with *node*, those of all of its ranks; with *agent*, none.
        node: Only this node's. Default: every node's.
        agent: Those of the agents, too.
        all_ranks: Those of all ranks.

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
            raise InvalidInput(f"'rank' must be left out when 'all_ranks' is given, got {self.rank}")

    def takes(self, node: str, speaker: str) -> bool:
        """Tell whether the stream of this *node* and *speaker* is one of them."""
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
    """A log stream, and how far it is read."""

    node: str
    speaker: str
    token: dict[str, Any] = field(default_factory=dict)


class RunLogs:
    """
    Reads the log streams of one run.

    Args:
        logs: Client of the log group's region.
        group: Name of the log group.
        run: Name of the run.
        selection: Which streams are read.
    """

    def __init__(self, logs: CloudWatchLogsClient, *, group: str, run: str, selection: Selection) -> None:
        self._logs = logs
        self._group = group
        self._run = run
        self._selection = selection
        self._streams: dict[str, _Stream] = {}

    def new_lines(self, *, new_streams: bool = True) -> Iterator[LogLine]:
        """
        Read what has come since the last call, from all nodes, by time.

        Args:
            new_streams: Look for streams that have come since, too.

        Raises:
            LogsNotFound: If the log group is not there.
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
        """Whether any stream of the selection was there yet."""
        return bool(self._streams)

    def follow(self, ended: Callable[[], bool], *, poll_seconds: float = POLL_SECONDS) -> Iterator[LogLine]:
        """
        Read what is there and what comes, until the run has ended and nothing new has come for a few looks.

        A stream that appears later is read, too: rank 0 of an elastic ring may move to another node.

        Args:
            ended: Tells whether the run has ended.
            poll_seconds: Seconds between two looks.
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
                    f"there is no log group '{self._group}': deploy the stack again, which makes it"
                ) from error
            for stream in answer["logStreams"]:
                yield stream["logStreamName"]
            if not answer.get("nextToken"):
                return
            token = {"nextToken": answer["nextToken"]}

    def _new_lines(self, name: str, stream: _Stream) -> Iterator[LogLine]:
        """A page may be empty before the end; the end is where the token does not change any more."""
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
