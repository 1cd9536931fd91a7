"""The checkpoints' folder at one moment, and its files held as they were then."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_BETWEEN_LOOKS = "the files changed between two looks"


class ChangedError(Exception):
    """The folder changed while it was being read; the message is a sentence without its full stop."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """
    What tells whether a file is still the same.

    Args:
        path: Relative to the folder.
        bytes: Its size.
        mtime_ns: When it was written, epoch nanoseconds.
        inode: Tells a file from another that took its place.
    """

    path: str
    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileState:
        """Take what *status* says of the file at *path*."""
        return cls(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


Snapshot: TypeAlias = Sequence[FileState]
"""The files of a folder, in the order of their paths."""


def look(folder: Path, *, left_out: Callable[[str, str], object] = lambda _path, _why: None) -> Snapshot:
    """
    List the files of *folder* that belong into a checkpoint.

    A link to what is in the folder stands for that, as `last.ckpt` does for the newest checkpoint in some libraries;
    it comes back as a file. What is hidden is left out, so that a script can write under a hidden name and rename; so
    are empty folders.

    Args:
        folder: Where the script writes.
        left_out: Told of what else cannot be kept, its path and why: a link that leads nowhere, back, or out of the
            folder; a device.
    """
    return sorted(_walk(folder, "", root=folder.resolve(), left_out=left_out), key=lambda file: file.path)


@contextmanager
def held(folder: Path, snapshot: Snapshot) -> Iterator[Path]:
    """
    Give a folder with the files of *snapshot*, which may be renamed, replaced or removed in *folder* from then on.

    They are hard links: it costs no room, and no time in which the script might write. A file that is written over in
    place changes in both folders; who reads it must look at its state once more.

    Raises:
        ChangedError: If *folder* is no longer as it was in *snapshot*.
    """
    with tempfile.TemporaryDirectory(prefix=_prefix(folder), dir=folder.parent, ignore_cleanup_errors=True) as name:
        holding = Path(name)
        try:
            for file in snapshot:
                link = holding / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                # Resolved: the kernel would make a second name of a link.
                link.hardlink_to((folder / file.path).resolve())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ChangedError(_BETWEEN_LOOKS) from error
        # Before and after the links were made the folder was the same: it was so in between, and the links show it.
        if look(folder) != snapshot or look(holding) != snapshot:
            raise ChangedError(_BETWEEN_LOOKS)
        yield holding


def release(folder: Path) -> None:
    """Remove what a killed agent held of *folder*: it takes room."""
    for stale in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _prefix(folder: Path) -> str:
    # Beside the folder, where no script that lists it meets the links, and on the same file system.
    return f".{folder.name}-held-"


def _walk(folder: Path, prefix: str, *, root: Path, left_out: Callable[[str, str], object]) -> Iterator[FileState]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):  # gone since it was listed: the next look finds it gone, too
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = prefix + entry.name
        reason = _leads_astray(Path(entry.path), root=root) if entry.is_symlink() else ""
        if reason:
            left_out(path, reason)
        elif entry.is_dir():
            yield from _walk(folder / entry.name, f"{path}/", root=root, left_out=left_out)
        elif entry.is_file():
            try:
                yield FileState.of(path, entry.stat())
            except FileNotFoundError:
                continue
        elif entry.is_symlink() or os.path.lexists(entry.path):
            left_out(path, "it is neither a file nor a folder")


def _leads_astray(link: Path, *, root: Path) -> str:
    """Tell why a checkpoint cannot hold what *link* stands for; '' when it can."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        return "it is a link that leads nowhere"
    if not target.is_relative_to(root):
        return f"it is a link to {target}, outside of the folder"
    if link.parent.resolve().is_relative_to(target):
        return "it is a link that leads back to where it is"
    return ""
