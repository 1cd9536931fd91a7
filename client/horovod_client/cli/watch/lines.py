"""What becomes of a run, line by line, for who watches it."""

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
"""Between two lines about how far the training is."""
TROUBLE_SECONDS: Final = 60.0
"""Trouble that comes again within this time is the same trouble."""


def news_printer(*, err: bool) -> Callable[[RunStatus], None]:
    """
    Make the watcher that prints each stage, attempt, restart and notice when it changes, and now and then the progress.

    Args:
        err: Print to stderr.
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
        # The time that is left follows from the rest, and goes on while a run only saves or waits.
        progress = replace(status.progress, eta_seconds=None)
        if progress != told:
            told, progress_at = progress, time.monotonic()
            say(f"  {describe_progress(status.progress)}", err=err)

    return print_news


def trouble_printer() -> Callable[[Exception], None]:
    """Make the watcher that says, once for each row of them, that AWS cannot be reached and is asked again."""
    last = float("-inf")

    def print_trouble(error: Exception) -> None:
        nonlocal last
        if time.monotonic() - last >= TROUBLE_SECONDS:
            say(describe_trouble(error), err=True)
        last = time.monotonic()

    return print_trouble
