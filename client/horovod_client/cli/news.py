"""What becomes of a run, line by line, for who watches it."""

from __future__ import annotations

from collections.abc import Callable

import click

from horovod_client.run import RunStatus


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


def news_printer(*, err: bool) -> Callable[[RunStatus], None]:
    """
    Make the watcher that prints each stage and notice when it changes.

    Args:
        err: Print to stderr.
    """
    printed: dict[str, str] = {}

    def print_news(status: RunStatus) -> None:
        for what, line in {"stage": describe_stage(status), "notice": status.notice}.items():
            if line is not None and printed.get(what) != line:
                printed[what] = line
                click.echo(line, err=err)

    return print_news
