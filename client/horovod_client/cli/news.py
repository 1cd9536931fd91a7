"""What becomes of a run, line by line, for who watches it."""

from __future__ import annotations

from collections.abc import Callable

import click

from horovod_client.status import RunStatus


def describe_stage(status: RunStatus) -> str | None:
    """
    Name the stage, and in the queue how many runs come first; None while there is no stage.

    Args:
        status: What the run is doing.
    """
    before = (status.place or 1) - 1
    if not before:
        return status.stage
    return f"{status.stage}, {before} run{'' if before == 1 else 's'} before it"


def describe_capacity(status: RunStatus, *, now: float | None = None) -> str | None:
    """
    Tell what the run tries to get nodes, and what EC2 said to the attempt before; None when it does not look for any.

    Args:
        status: What the run is doing.
        now: Epoch seconds, to tell since when. Default: that is left out.
    """
    search = status.capacity
    if search is None:
        return None
    since = "" if now is None else f", since {max(0, now - search.since) / 60:.0f} min"
    refusal = f"; EC2 said: {search.refusal}" if search.refusal else ""
    return f"waiting for capacity: attempt {search.number} of {search.of}, {search.attempt}{since}{refusal}"


def describe_restarts(status: RunStatus) -> str | None:
    """
    Tell how often the run started again, and why it did last; None when it never did.

    Args:
        status: What the run is doing.
    """
    if not status.restarts:
        return None
    times, last = len(status.restarts), status.restarts[-1]
    reason = (last.cause.splitlines() or [""])[0]
    return f"started again {times} time{'' if times == 1 else 's'}: {last.error}: {reason}"


def news_printer(*, err: bool) -> Callable[[RunStatus], None]:
    """
    Make the watcher that prints each stage, attempt, restart and notice when it changes.

    Args:
        err: Print to stderr.
    """
    printed: dict[str, str] = {}

    def print_news(status: RunStatus) -> None:
        news = {
            "restarts": describe_restarts(status),
            "stage": describe_stage(status),
            "capacity": describe_capacity(status),
            "notice": status.notice,
        }
        for what, line in news.items():
            if line is not None and printed.get(what) != line:
                printed[what] = line
                click.echo(line, err=err)

    return print_news
