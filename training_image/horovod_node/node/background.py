"""Runs one call in its own thread, so that the agent's main thread can continue with heartbeats and checks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Answer = TypeVar("_Answer")


def in_background(call: Callable[[], _Answer]) -> Future[_Answer]:
    """
    Start *call* in a daemon thread and return its future.

    An executor's threads would keep the agent alive until a download of hours ends; a daemon thread does not.
    """
    future: Future[_Answer] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=getattr(call, "__name__", "background"), daemon=True).start()
    return future
