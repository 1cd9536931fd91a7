"""
Sends lines to CloudWatch Logs from a background thread.

Training never waits for it. Lines that do not fit into the buffer are dropped and counted; their number is written to
the same stream once CloudWatch accepts lines again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

_log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 0.4
"""How long a line may wait for others in the same request."""
CLOSE_SECONDS: Final = 3.0
"""Time limit of the last flush; Docker gives the agent 10 s to stop."""
BUFFER_LINES: Final = 50_000
BUFFER_BYTES: Final = 32 * 1024 * 1024
_LONGEST_PAUSE_SECONDS: Final = 10.0

# Limits of PutLogEvents (CloudWatch Logs API Reference): a batch has at most 1,048,576 bytes, where an event counts as
# its message in UTF-8 plus 26 bytes, and at most 10,000 events, in chronological order and within 24 hours.
BATCH_BYTES: Final = 1_048_576
BATCH_EVENTS: Final = 10_000
BATCH_SECONDS: Final = 23 * 3600
EVENT_OVERHEAD_BYTES: Final = 26
EVENT_BYTES: Final = 256 * 1024 - EVENT_OVERHEAD_BYTES
"""Longest message of an event: 256 KB in older editions of the reference, a limit that holds everywhere."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line, with its speaker and its time in epoch seconds."""

    speaker: str
    at: float
    message: str

    @property
    def size(self) -> int:
        return len(self.message.encode()) + EVENT_OVERHEAD_BYTES


class LogShipping:
    """
    Sends lines to the log streams of one node in its run. Call `start` first and `close` at the end.

    Args:
        logs: boto3 client; its timeouts bound each request of a flush.
        group: Name of the log group.
        flush_seconds: How long a line may wait for others. Default: `FLUSH_SECONDS`.
        buffer_lines: Most lines kept while CloudWatch does not accept them. Default: `BUFFER_LINES`.
        buffer_bytes: The same in bytes, as CloudWatch counts them. Default: `BUFFER_BYTES`.
    """

    def __init__(
        self,
        logs: CloudWatchLogsClient,
        *,
        group: str,
        flush_seconds: float = FLUSH_SECONDS,
        buffer_lines: int = BUFFER_LINES,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._logs = logs
        self._group = group
        self._flush_seconds = flush_seconds
        self._buffer_lines = buffer_lines
        self._buffer_bytes = buffer_bytes
        # Reentrant: the agent's SIGTERM handler may log in the middle of `take`.
        self._changed = threading.Condition(threading.RLock())
        self._lines: deque[_Line] = deque()
        self._bytes = 0
        self._dropped: Counter[str] = Counter()
        self._place: tuple[str, str] | None = None
        self._streams: set[str] = set()
        self._closing = threading.Event()
        self._troubled = False
        self._thread = threading.Thread(target=self._send_forever, name="log-shipping", daemon=True)

    def start(self) -> None:
        """Send in the background until closed."""
        self._thread.start()

    def join(self, *, run: str, node: str) -> None:
        """Set the run and node that name the log streams; until then lines are only buffered."""
        with self._changed:
            self._place = run, node
            self._changed.notify_all()

    def take(self, speaker: str, line: str) -> None:
        """
        Buffer a line; this never waits and never fails.

        Args:
            speaker: `contract.LOG_AGENT`, `contract.LOG_METRICS`, or `contract.LOG_RANK_PREFIX` and a rank's number.
            line: The line; it is cut at CloudWatch's limit.
        """
        # CloudWatch refuses empty messages.
        taken = _Line(speaker=speaker, at=time.time(), message=_cut(line.rstrip("\r\n")) or " ")
        with self._changed:
            if len(self._lines) >= self._buffer_lines or self._bytes + taken.size > self._buffer_bytes:
                self._dropped[speaker] += 1
                return
            self._keep(taken)
            self._changed.notify_all()

    def close(self) -> None:
        """Send the remaining lines, as far as that is possible within `CLOSE_SECONDS`."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_SECONDS)

    def _keep(self, line: _Line) -> None:
        self._lines.append(line)
        self._bytes += line.size

    def _send_forever(self) -> None:
        pause = self._flush_seconds
        while not self._closing.is_set():
            with self._changed:
                while not (self._lines and self._place) and not self._closing.is_set():
                    self._changed.wait()
            self._closing.wait(pause)
            pause = self._flush_seconds if self._flush() else min(2 * pause, _LONGEST_PAUSE_SECONDS)
        self._flush()

    def _flush(self) -> bool:
        """Send the buffered lines; return whether CloudWatch accepted them."""
        with self._changed:
            if self._place is None:
                return True
            lines, self._lines, self._bytes = self._lines, deque(), 0
        by_speaker: dict[str, list[_Line]] = {}
        for line in lines:
            by_speaker.setdefault(line.speaker, []).append(line)
        refused: list[_Line] = []
        for speaker, spoken in by_speaker.items():
            refused += self._send(contract.log_stream(*self._place, speaker), spoken)
        with self._changed:
            # Refused lines go before newer ones; if there is no room for both, the newest are dropped.
            newer, self._lines, self._bytes = self._lines, deque(), 0
            for line in (*refused, *newer):
                if len(self._lines) >= self._buffer_lines or self._bytes + line.size > self._buffer_bytes:
                    self._dropped[line.speaker] += 1
                else:
                    self._keep(line)
            if not refused:
                self._report_dropped()
        return not refused

    def _report_dropped(self) -> None:
        """Write the number of dropped lines to the streams in which they are missing."""
        for speaker, count in self._dropped.items():
            self._keep(_Line(speaker=speaker, at=time.time(), message=f"[{count} lines were dropped here]"))
        self._dropped.clear()

    def _send(self, stream: str, lines: Sequence[_Line]) -> list[_Line]:
        """Send the lines of one stream; return those to be sent again."""
        batches = list(_batches(lines))
        for number, batch in enumerate(batches):
            try:
                self._put(stream, batch)
            except (BotoCoreError, ClientError) as error:
                code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
                if code == "InvalidParameterException":
                    # A retry would fail in the same way, and must not hold up the other lines.
                    with self._changed:
                        self._dropped[batch[0].speaker] += len(batch)
                    continue
                # The stream may have been deleted.
                self._streams.discard(stream)
                if not self._troubled:
                    # Logged once per outage, because this line is shipped, too.
                    self._troubled = True
                    _log.warning("could not write to log stream %s of group %s: %s", stream, self._group, error)
                return [line for rest in batches[number:] for line in rest]
        self._troubled = False
        return []

    def _put(self, stream: str, batch: Sequence[_Line]) -> None:
        if stream not in self._streams:
            try:
                self._logs.create_log_stream(logGroupName=self._group, logStreamName=stream)
            except ClientError as error:
                # An earlier attempt, or an earlier process of this agent, created it.
                if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                    raise
            self._streams.add(stream)
        events: list[InputLogEventTypeDef] = [
            {"timestamp": int(line.at * 1000), "message": line.message} for line in batch
        ]
        self._logs.put_log_events(logGroupName=self._group, logStreamName=stream, logEvents=events)


class LogHandler(logging.Handler):
    """
    Ships the agent's own log lines.

    Args:
        shipping: Sends the lines.
    """

    def __init__(self, shipping: LogShipping) -> None:
        super().__init__()
        self._shipping = shipping

    def emit(self, record: logging.LogRecord) -> None:
        """Ship one record."""
        self._shipping.take(contract.LOG_AGENT, self.format(record))


def _cut(line: str) -> str:
    encoded = line.encode(errors="replace")
    return encoded[:EVENT_BYTES].decode(errors="ignore")


def _batches(lines: Sequence[_Line]) -> Iterator[list[_Line]]:
    """Split lines into batches within the limits of PutLogEvents."""
    batch: list[_Line] = []
    size = 0
    # The clock may have been set back between two lines.
    for line in sorted(lines, key=lambda line: line.at):
        full = size + line.size > BATCH_BYTES or len(batch) == BATCH_EVENTS
        if batch and (full or line.at - batch[0].at > BATCH_SECONDS):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += line.size
    if batch:
        yield batch
