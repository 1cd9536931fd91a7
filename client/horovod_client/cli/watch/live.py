"""The live view, which follows a run in a terminal until it ends or the user leaves."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import click
from botocore import exceptions as aws
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from horovod_client.cli.options import say
from horovod_client.cli.watch.render import LINES_SHOWN, draw
from horovod_client.cli.watch.session import ViewLeft
from horovod_client.errors import HorovodClientError, RunEnded
from horovod_client.run import Run
from horovod_client.status.describe import describe_trouble
from horovod_client.status.run_status import RunStatus
from horovod_client.text.terminal import printable_line

DRAWS_PER_SECOND = 4
QUESTION = "Stop the run, leave only this view, or continue watching? [s]top / [v]iew / [c]ontinue"


def follow_live(run: Run, *, poll_seconds: float, ask: Callable[[str], str] | None = None) -> RunStatus:
    """
    Show a run until it ends; Ctrl-C asks whether to stop the run or to leave the view.

    Args:
        run: The run.
        poll_seconds: Seconds between two polls.
        ask: Asks a question and returns the answer's first letter. Default: asks in the terminal.

    Raises:
        RunFailed: If the run ended without a model.
        ViewLeft: If the user left the view.
    """
    view = _View(run)
    while True:
        try:
            with view:
                return run.wait(view.show, poll_seconds=poll_seconds, on_trouble=view.show_trouble)
        except KeyboardInterrupt:
            pass
        answer = _answer(ask or _ask)
        if answer == "v":
            raise ViewLeft
        if answer == "s":
            say(f"stopping run {run.name}: its nodes are terminated")
            with suppress(RunEnded):
                run.stop("stopped by a user with Ctrl-C")


class _View:
    """The view; rich redraws it in a thread, so that times advance between two polls."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._status: RunStatus | None = None
        self._trouble = ""
        self._since: dict[str, float] = {}
        self._lines: deque[str] = deque(maxlen=LINES_SHOWN)
        self._live: Live | None = None
        # One thread for the whole view; it ends with the run or with this process.
        self._reader = threading.Thread(target=self._read_lines, name="logs", daemon=True)

    def __enter__(self) -> _View:
        self._live = Live(
            get_renderable=lambda: Group(self._draw()),
            console=Console(),
            refresh_per_second=DRAWS_PER_SECOND,
            vertical_overflow="crop",
        )
        self._live.start()
        if not self._reader.is_alive() and self._reader.ident is None:
            self._reader.start()
        return self

    def __exit__(self, *_end: object) -> None:
        assert self._live is not None
        self._live.stop()

    def show(self, status: RunStatus) -> None:
        before, self._status, self._trouble = self._status, status, ""
        # The start of the first observed phase is unknown: it may have been hours ago.
        if status.phase is not None and before is not None and before.phase != status.phase:
            self._since.setdefault(status.phase, time.time())
        if status.ended:
            assert self._live is not None
            self._live.refresh()

    def show_trouble(self, error: Exception) -> None:
        self._trouble = describe_trouble(error)

    def _draw(self) -> RenderableType:
        if self._status is None:
            return Text(f"run {self._run.name}")
        picture = draw(self._status, now=time.time(), since=self._since, lines=tuple(self._lines))
        # The last line is empty, because a terminal writes ^C at the cursor, which would shift a full line.
        return Group(picture, Text(printable_line(self._trouble), style="red"))

    def _read_lines(self) -> None:
        # A log group that cannot be read must not end the view.
        with suppress(HorovodClientError, aws.BotoCoreError, aws.ClientError):
            for line in self._run.logs(follow=True):
                self._lines.append(line.text)


def _answer(ask: Callable[[str], str]) -> str:
    """Return the user's choice; another Ctrl-C leaves the view."""
    try:
        return ask(QUESTION)
    except (KeyboardInterrupt, click.Abort):
        say()  # end the line of the question
        return "v"


def _ask(question: str) -> str:
    answer: str = click.prompt(
        question, type=click.Choice(["s", "v", "c"], case_sensitive=False), default="c", show_choices=False
    )
    return answer
