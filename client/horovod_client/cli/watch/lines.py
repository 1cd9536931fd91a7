"""Progress of a watched run as lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from horovod_client.cli.options import say
from horovod_client.status.describe import (
    describe_capacity,
    describe_progress,
    describe_restarts,
    describe_stage,
    describe_trouble,
)
from horovod_client.status.run_status import RunStatus, TrainingProgress
from horovod_client.status.waiting import explain_queue

PROGRESS_SECONDS: Final = 10.0
"""Shortest time between two lines about the training's progress."""
TROUBLE_SECONDS: Final = 60.0
"""An error within this time after the last one is not printed again."""


def news_printer(*, err: bool) -> Callable[[RunStatus], None]:
    """
    Create a function that prints changes of stage, attempt, restarts and notice, and regularly the progress.

    Args:
        err: Print to stderr, not to stdout.
    """
    printed: dict[str, str] = {}
    told: TrainingProgress | None = None
    progress_at = -PROGRESS_SECONDS

    def print_news(status: RunStatus) -> None:
        nonlocal told, progress_at
        news = {
            "restarts": describe_restarts(status),
            "stage": describe_stage(status),
            "queue": explain_queue(status) if status.holders else None,
            "capacity": describe_capacity(status),
            "notice": status.notice,
        }
        for what, line in news.items():
            if line is not None and printed.get(what) != line:
                printed[what] = line
                say(line, err=err)
        if status.progress is None or status.ended or time.monotonic() - progress_at < PROGRESS_SECONDS:
            return
        # The remaining time changes even while the run only saves or waits.
        progress = replace(status.progress, eta_seconds=None)
        if progress != told:
            told, progress_at = progress, time.monotonic()
            say(f"  {describe_progress(status.progress)}", err=err)

    return print_news


def trouble_printer() -> Callable[[Exception], None]:
    """Create a function that prints that AWS cannot be reached, once for each series of errors."""
    last = float("-inf")

    def print_trouble(error: Exception) -> None:
        nonlocal last
        if time.monotonic() - last >= TROUBLE_SECONDS:
            say(describe_trouble(error), err=True)
        last = time.monotonic()

    return print_trouble
