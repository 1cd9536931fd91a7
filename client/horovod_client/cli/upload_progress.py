"""How a terminal shows data that is uploaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from horovod_client.cli.options import say
from horovod_client.submit.local_data import DataProgress, Watcher
from horovod_client.text.amounts import byte_size, counted


@contextmanager
def upload_shown(*, plain: bool = False) -> Iterator[Watcher]:
    """
    Show uploads as bars in a terminal, and as two lines each where there is none, on stderr in both cases.

    Args:
        plain: Print lines in any case.
    """
    try:
        if plain or not sys.stderr.isatty():
            yield _say
        else:
            with _bars() as draw:
                yield draw
    except KeyboardInterrupt:
        say("the upload was stopped: the same command goes on with what is missing", err=True)
        raise


@contextmanager
def _bars() -> Iterator[Watcher]:
    """Draw how far the upload is, and keep a line of each that has ended."""
    # rich loads as long as all the rest: only who uploads in a terminal waits for it.
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    bars = Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=Console(stderr=True), transient=True
    )
    ends: list[DataProgress] = []
    with bars:
        bar, doing = bars.add_task("", total=None), ""

        def draw(progress: DataProgress) -> None:
            nonlocal doing
            if progress.doing in ("uploaded", "there"):
                ends.append(progress)
            elif doing != progress.doing:
                doing = progress.doing
                words = f"data.{progress.channel}: {doing} {counted(progress.files, 'file')}"
                bars.reset(bar, total=progress.total_bytes, description=words)
            else:
                bars.update(bar, completed=progress.done_bytes)

        yield draw
    for end in ends:
        _say(end)


def _say(progress: DataProgress) -> None:
    """Print when an upload begins and what became of it; not how far it is, which would fill a log."""
    files = counted(progress.files, "file")
    match progress.doing:
        case "uploading" if not progress.done_bytes:
            size = byte_size(progress.total_bytes)
            say(f"data.{progress.channel}: uploading {files}, {size}, to {progress.address}", err=True)
        case "uploaded":
            say(f"data.{progress.channel}: uploaded", err=True)
        case "there":
            say(f"data.{progress.channel}: the same {files} are at {progress.address} already", err=True)
