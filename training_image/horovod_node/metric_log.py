"""The way of a node's metrics to CloudWatch: lines in a log stream, which CloudWatch Logs reads metrics out of."""

from __future__ import annotations

import logging
import queue
import time
from contextlib import suppress
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

_log = logging.getLogger(__name__)

LINES: Final = 360
"""So many lines wait while CloudWatch does not answer, an hour's at one in ten seconds; newer ones are dropped then."""
_AT_ONCE: Final = 100
"""Lines of one call: at 2 KB each, a fifth of what PutLogEvents takes (1 MiB)."""
_PAUSE_SECONDS: Final = 5.0
"""After a refusal."""
CLOSE_SECONDS: Final = 2.0
"""How long closing waits for what is still to be sent."""


class MetricLog:
    """
    Sends lines to one log stream, in a thread of its own.

    Whatever goes wrong is logged and tried again: metrics never disturb a training.

    Args:
        logs: boto3 client.
        group: Name of the log group, which exists.
        stream: Name of the log stream, which is created.
        pause_seconds: After a refusal. Default: 5 s.
    """

    def __init__(
        self, logs: CloudWatchLogsClient, *, group: str, stream: str, pause_seconds: float = _PAUSE_SECONDS
    ) -> None:
        self._logs = logs
        self._group = group
        self._stream = stream
        self._pause_seconds = pause_seconds
        self._waiting: queue.Queue[InputLogEventTypeDef | None] = queue.Queue(maxsize=LINES)
        self._closed = Event()
        self._created = False
        self._refused = False
        self._thread = Thread(target=self._send_forever, name="metric-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Send *line* as soon as possible; `False` if it is dropped, because too many wait already."""
        try:
            self._waiting.put_nowait({"timestamp": int(time.time() * 1000), "message": line})
        except queue.Full:
            return False
        return True

    def close(self, wait_seconds: float = CLOSE_SECONDS) -> None:
        """Send what waits, for *wait_seconds* at most."""
        self._closed.set()
        # A full queue needs no end: the thread finds out by itself, for it does not wait for a line.
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(wait_seconds)

    def _send_forever(self) -> None:
        while True:
            batch = self._take()
            while batch and not self._send(batch):
                if self._closed.wait(self._pause_seconds):
                    return
            if self._closed.is_set() and self._waiting.empty():
                return

    def _take(self) -> list[InputLogEventTypeDef]:
        """Wait for a line, and take with it what else is there."""
        taken = [self._waiting.get()]
        while len(taken) < _AT_ONCE:
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return [line for line in taken if line is not None]

    def _send(self, batch: list[InputLogEventTypeDef]) -> bool:
        try:
            if not self._created:
                # An earlier agent of this node may have made it.
                with suppress(self._logs.exceptions.ResourceAlreadyExistsException):
                    self._logs.create_log_stream(logGroupName=self._group, logStreamName=self._stream)
                self._created = True
            self._logs.put_log_events(logGroupName=self._group, logStreamName=self._stream, logEvents=batch)
        except Exception as error:  # whatever it is: the training goes on
            if not self._refused:
                _log.warning("metrics do not reach log group %s: %s", self._group, error)
            self._refused = True
            return False
        self._refused = False
        return True
