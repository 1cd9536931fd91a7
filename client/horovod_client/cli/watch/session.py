"""How a terminal follows a run that is there."""

from __future__ import annotations

import sys

import click

from horovod_client.cli import exit_codes
from horovod_client.cli.options import say
from horovod_client.cli.watch.lines import news_printer, trouble_printer
from horovod_client.run import Run

LOOK_SECONDS = 2.0


class ViewLeft(Exception):  # noqa: N818 - it says what happened, and is no error
    """The user left the view; the run goes on."""


def is_terminal() -> bool:
    """Whether a live view can be shown, and questions can be asked."""
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
    Show the live view of a run until it ends, or lines where there is no terminal.

    Args:
        run: The run.
        stack: Its stack, for what the user may type next.
        poll_seconds: Seconds between two looks.
        plain: Print lines in any case.
        err: Print them to stderr.
        started: Whether the first line says that the run was started.

    Raises:
        RunFailed: If the run ended without a model.
        click.exceptions.Exit: If the user left the view.
    """
    try:
        if is_terminal() and not plain:
            # rich loads as long as all the rest: only who looks at a run waits for it.
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
    """Say that the run goes on, and what may be done about it."""
    say(
        f"cdk-horovod: the run goes on; look at it with: cdk-horovod status {run.name} --stack {stack}, "
        f"stop it with: cdk-horovod stop {run.name} --stack {stack}",
        err=True,
    )
