"""Snapshots of the checkpoint folder."""

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
    """The folder changed while it was read; the message is a sentence without its full stop."""


@dataclass(frozen=True, kw_only=True)
class FileState:
    """
    The properties by which a change of a file is detected.

    Args:
        path: Path relative to the folder.
        bytes: Size of the file.
        mtime_ns: Modification time, epoch nanoseconds.
        inode: Inode, which changes when another file replaces this one.
    """

    path: str
    bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: str, status: os.stat_result) -> FileState:
        """Return the state of the file at *path* from its *status*."""
        return cls(path=path, bytes=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino)


Snapshot: TypeAlias = Sequence[FileState]
"""The files of a folder, in the order of their paths."""


def look(folder: Path, *, left_out: Callable[[str, str], object] = lambda _path, _why: None) -> Snapshot:
    """
    List the files of *folder* that belong in a checkpoint.

    A link inside the folder, such as the `last.ckpt` of some libraries, counts as a copy of its target, and is restored
    as a file. Hidden files are left out, so that a script can write under a hidden name and rename. So are empty
    folders.

    Args:
        folder: The checkpoint folder.
        left_out: Called with the path of anything else that is left out, and the reason: a link that leads nowhere,
            back, or out of the folder; a device.
    """
    return sorted(_walk(folder, "", root=folder.resolve(), left_out=left_out), key=lambda file: file.path)


@contextmanager
def held(folder: Path, snapshot: Snapshot) -> Iterator[Path]:
    """
    Yield a folder that keeps the files of *snapshot*, even if they are renamed, replaced or removed in *folder*.

    The files are hard links, which take neither space nor time to copy. A file that is overwritten in place changes in
    both folders, so a reader must check its state again.

    Raises:
        ChangedError: If *folder* has changed since *snapshot*.
    """
    with tempfile.TemporaryDirectory(prefix=_prefix(folder), dir=folder.parent, ignore_cleanup_errors=True) as name:
        holding = Path(name)
        try:
            for file in snapshot:
                link = holding / file.path
                link.parent.mkdir(parents=True, exist_ok=True)
                # Resolved, because a hard link to a symbolic link would be another symbolic link.
                link.hardlink_to((folder / file.path).resolve())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ChangedError(_BETWEEN_LOOKS) from error
        # If the folder is the same before and after the links were made, they have its state.
        if look(folder) != snapshot or look(holding) != snapshot:
            raise ChangedError(_BETWEEN_LOOKS)
        yield holding


def release(folder: Path) -> None:
    """Remove the hard links to files of *folder* that a killed agent left, because they take space."""
    for stale in folder.parent.glob(f"{_prefix(folder)}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _prefix(folder: Path) -> str:
    # Beside the folder: on the same file system, but where a script that lists the folder does not see the links.
    return f".{folder.name}-held-"


def _walk(folder: Path, prefix: str, *, root: Path, left_out: Callable[[str, str], object]) -> Iterator[FileState]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):  # removed since it was listed; the next poll sees that, too
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
    """Return why a checkpoint cannot hold the target of *link*; '' if it can."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop of links, before Python 3.13
        return "it is a link that leads nowhere"
    if not target.is_relative_to(root):
        return f"it is a link to {target}, outside of the folder"
    if link.parent.resolve().is_relative_to(target):
        return "it is a link that leads back to where it is"
    return ""
