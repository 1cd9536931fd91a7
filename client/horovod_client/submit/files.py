"""The files of a folder, with links followed: the same rule for the user's code and data."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from horovod_client.errors import InvalidInput

_KINDS: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """
    Words for error messages about files.

    Args:
        verb: What was to be done with the files: `cannot VERB 'file'`.
        remedy: Clause that says what the user may do about a refused file.
    """

    verb: str
    remedy: str


def no_entry(_path: Path, *, is_folder: bool) -> bool:  # noqa: ARG001 - the signature of every choice
    """Leave out no path."""
    return False


def walk_files(folder: Path, *, purpose: Purpose, leaves_out: Callable[..., bool] = no_entry) -> Iterator[Path]:
    """
    Find every regular file below *folder*, in a fixed order.

    Links are followed, as `tar --dereference` and `aws s3 sync` do ("AWS CLI Command Reference", `s3 sync`,
    `--follow-symlinks`: the contents of the link target are uploaded under the name of the link). The AWS CLI warns
    about a file that it cannot upload and continues. Here such a file is an error, because a training on incomplete
    code or data is worse than none. Empty folders are left out.

    Args:
        folder: Folder to walk, or a link to it. All returned paths begin with it.
        purpose: Words for errors.
        leaves_out: Called with each path and `is_folder`; a path for which it returns true is skipped without a check.
            Default: no path is skipped.

    Raises:
        InvalidInput: If there is a broken link, a link to a folder that contains the link, a pipe, a socket, a device,
            or a name that is not UTF-8.
        OSError: If a folder cannot be read.
    """
    # Not by recursion: folders may lie deeper than Python's stack.
    levels = [_Level(folder, real=folder.resolve(), around=())]
    while levels:
        level = levels[-1]
        path = next(level.entries, None)
        if path is None:
            levels.pop()
        elif (is_folder := path.is_dir()) and not leaves_out(path, is_folder=True):
            check_name(path, purpose=purpose)
            levels.append(level.below(path, purpose=purpose))
        elif not is_folder and not leaves_out(path, is_folder=False):
            check_file(path, purpose=purpose)
            yield path


def check_file(path: Path, *, purpose: Purpose) -> None:
    """
    Refuse a path that has no content to copy.

    Args:
        path: Path of anything but a folder.
        purpose: Words for the error.

    Raises:
        InvalidInput: If *path* is neither a regular file nor a link to one, or its name is not UTF-8.
        OSError: If *path* does not exist or cannot be accessed.
    """
    check_name(path, purpose=purpose)
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise _refusal(path, f"a link to '{shown(path.readlink())}', which does not exist", purpose=purpose)
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "not a regular file")
    raise _refusal(path, f"{kind}, which has no content to copy", purpose=purpose)


def check_name(path: Path, *, purpose: Purpose) -> None:
    """
    Refuse a name that is not UTF-8, as keys in S3 must be (S3 User Guide, "Naming Amazon S3 objects").

    Args:
        path: Path whose last part is checked.
        purpose: Words for the error.

    Raises:
        InvalidInput: If the name is not UTF-8.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"cannot {purpose.verb} '{shown(path)}': its name must be UTF-8, as keys in S3 are; rename it"
        ) from error


def shown(path: Path) -> str:
    r"""Format a path for people; bytes that are not UTF-8 become `\xe9` and the like, as in shells."""
    return os.fsencode(path).decode(errors="backslashreplace")


class _Level:
    """
    A folder on the path of a walk.

    Args:
        path: Path by which the walk reached it.
        real: The same path with all links resolved.
        around: Real paths of the folders that contain the links on *path*.
    """

    def __init__(self, path: Path, *, real: Path, around: tuple[Path, ...]) -> None:
        self._real = real
        self._around = around
        self.entries = iter(sorted(path.iterdir(), key=lambda entry: entry.name))

    def below(self, path: Path, *, purpose: Purpose) -> _Level:
        """Enter a folder in this one; refuse a link to a folder that contains it, which would never end."""
        if not path.is_symlink():
            return _Level(path, real=self._real / path.name, around=self._around)
        real, around = path.resolve(), (*self._around, self._real)
        if any(folder.is_relative_to(real) for folder in around):
            raise _refusal(path, f"a link to '{shown(real)}', a folder that contains it", purpose=purpose)
        return _Level(path, real=real, around=around)


def _refusal(path: Path, what: str, *, purpose: Purpose) -> InvalidInput:
    return InvalidInput(f"cannot {purpose.verb} '{shown(path)}', which is {what}: {purpose.remedy}")
