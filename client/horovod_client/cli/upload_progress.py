"""Display of uploads in a terminal."""

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
    Show uploads on stderr, as progress bars in a terminal, and otherwise as lines for their start and end.

    Args:
        plain: Print lines even in a terminal. Default: no.
    """
    try:
        if plain or not sys.stderr.isatty():
            yield _say
        else:
            with _bars() as draw:
                yield draw
    except KeyboardInterrupt:
        say("the upload was stopped: run the same command again to upload the missing files", err=True)
        raise


@contextmanager
def _bars() -> Iterator[Watcher]:
    """Show progress bars, and print a line for each upload when they close."""
    # Imported here because rich is slow to import, and only uploads in a terminal need it.
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
    """Print the start and the end of an upload, but not its progress, which would fill a log."""
    files = counted(progress.files, "file")
    match progress.doing:
        case "uploading" if not progress.done_bytes:
            size = byte_size(progress.total_bytes)
            say(f"data.{progress.channel}: uploading {files}, {size}, to {progress.address}", err=True)
        case "uploaded":
            say(f"data.{progress.channel}: uploaded", err=True)
        case "there":
            say(f"data.{progress.channel}: unchanged, {files} at {progress.address}", err=True)
