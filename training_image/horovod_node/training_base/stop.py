"""Requests to stop, which arrive as SIGTERM."""

from __future__ import annotations

import signal
import threading
from types import TracebackType


class StopRequest:
    """
    Inside its context, records SIGTERM instead of letting it end the process.

    If the script handles SIGTERM itself, its handler stays. Ranks other than 0 do not exit on their own: if they left
    first, they would break the ring while rank 0 finishes its step.
    """

    def __init__(self) -> None:
        self.came = False
        self._installed = False

    def __enter__(self) -> StopRequest:
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "came", True))
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
