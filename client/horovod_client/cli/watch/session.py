"""Watching of a run by the command line tool."""

from __future__ import annotations

import sys

import click

from horovod_client.cli import exit_codes
from horovod_client.cli.options import say
from horovod_client.cli.watch.lines import news_printer, trouble_printer
from horovod_client.run import Run

LOOK_SECONDS = 2.0


class ViewLeft(Exception):  # noqa: N818 - it says what happened, and is no error
    """The user left the view; the run continues."""


def is_terminal() -> bool:
    """Return whether a live view can be shown and questions can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def watch_run(
    run: Run,
    *,
    stack: str,
    poll_seconds: float = LOOK_SECONDS,
    plain: bool = False,
    err: bool = False,
    started: bool = False,
) -> None:
    """
    Show a run until it ends, with the live view in a terminal, and otherwise with lines.

    Args:
        run: The run.
        stack: Name of its stack, for suggested commands.
        poll_seconds: Seconds between two polls. Default: 2.
        plain: Print lines even in a terminal. Default: no.
        err: Print the lines to stderr. Default: to stdout.
        started: Whether the first line says that the run was started. Default: no.

    Raises:
        RunFailed: If the run ended without a model.
        click.exceptions.Exit: If the user left the view.
    """
    try:
        if is_terminal() and not plain:
            # Imported here because rich is slow to import, and only the live view needs it.
            from horovod_client.cli.watch.live import follow_live

            follow_live(run, poll_seconds=poll_seconds)
            return
        if started:
            say(f"run {run.name} started", err=err)
        run.wait(news_printer(err=err), poll_seconds=poll_seconds, on_trouble=trouble_printer())
    except (KeyboardInterrupt, ViewLeft):
        _tell_how_to_go_on(run, stack=stack)
        raise click.exceptions.Exit(exit_codes.INTERRUPTED) from None


def _tell_how_to_go_on(run: Run, *, stack: str) -> None:
    """Say that the run continues, and how to watch or stop it."""
    say(
        f"cdk-horovod: the run continues; see it with: cdk-horovod status {run.name} --stack {stack}, "
        f"stop it with: cdk-horovod stop {run.name} --stack {stack}",
        err=True,
    )
