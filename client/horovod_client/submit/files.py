"""The files of a folder, links followed: one rule for the user's code and for the user's data."""

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
    Why files are looked for, for the sentences of this module.

    Args:
        verb: What is done with them: `cannot VERB 'file'`.
        remedy: What the user may do about one that is refused, as a clause.
    """

    verb: str
    remedy: str


def no_entry(_path: Path, *, is_folder: bool) -> bool:  # noqa: ARG001 - the signature of every choice
    """Choose nothing."""
    return False


def walk_files(folder: Path, *, purpose: Purpose, leaves_out: Callable[..., bool] = no_entry) -> Iterator[Path]:
    """
    Find every regular file below *folder*, in a fixed order.

    Links are followed, as `tar --dereference` and `aws s3 sync` do: a link to a file is the file, a link to a folder is
    a folder ("AWS CLI Command Reference", `s3 sync`, `--follow-symlinks`: the contents of the link target are uploaded
    under the name of the link). The AWS CLI warns of what it cannot upload and goes on; a training with a part of its
    code or data would be worse than none, so here that is refused. Empty folders have no files, and are left out.

    Args:
        folder: Where to start, a folder or a link to one. The paths that are found begin with it.
        purpose: For the sentences.
        leaves_out: Called with each path and `is_folder`; what it chooses is neither entered nor found nor refused.
            Default: nothing is left out.

    Raises:
        InvalidInput: If there is a link that leads nowhere or back to a folder that it lies in, a pipe, a socket or a
            device, or a name that is not UTF-8.
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
    Refuse what has no content that could be copied.

    Args:
        path: Not a folder.
        purpose: For the sentence.

    Raises:
        InvalidInput: If *path* is no regular file and no link to one, or its name is not UTF-8.
        OSError: If it is not there, or may not be looked at.
    """
    check_name(path, purpose=purpose)
    if path.is_file():
        return
    if path.is_symlink() and not path.exists():
        raise _refusal(path, f"a link to '{shown(path.readlink())}', which is not there", purpose=purpose)
    kind = _KINDS.get(stat.S_IFMT(path.stat().st_mode), "no regular file")
    raise _refusal(path, f"{kind}, which has no content to copy", purpose=purpose)


def check_name(path: Path, *, purpose: Purpose) -> None:
    """
    Refuse a name that is not UTF-8, which the keys of S3 are (S3 User Guide, "Naming Amazon S3 objects").

    Args:
        path: Its last part is checked.
        purpose: For the sentence.

    Raises:
        InvalidInput: If its bytes are no UTF-8.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"cannot {purpose.verb} '{shown(path)}', whose name is not UTF-8, as names in S3 must be: rename it"
        ) from error


def shown(path: Path) -> str:
    r"""Write a path for people; bytes that are no UTF-8 become `\xe9` and the like, as shells write them."""
    return os.fsencode(path).decode(errors="backslashreplace")


class _Level:
    """
    A folder that is being walked.

    Args:
        path: As it was reached.
        real: The same without links.
        around: The real paths of the folders that hold the links through which it was reached.
    """

    def __init__(self, path: Path, *, real: Path, around: tuple[Path, ...]) -> None:
        self._real = real
        self._around = around
        self.entries = iter(sorted(path.iterdir(), key=lambda entry: entry.name))

    def below(self, path: Path, *, purpose: Purpose) -> _Level:
        """Enter a folder in this one, unless it is a link to one that this one lies in: that would have no end."""
        if not path.is_symlink():
            return _Level(path, real=self._real / path.name, around=self._around)
        real, around = path.resolve(), (*self._around, self._real)
        if any(folder.is_relative_to(real) for folder in around):
            raise _refusal(path, f"a link back to '{shown(real)}', the folder that it lies in", purpose=purpose)
        return _Level(path, real=real, around=around)


def _refusal(path: Path, what: str, *, purpose: Purpose) -> InvalidInput:
    return InvalidInput(f"cannot {purpose.verb} '{shown(path)}', which is {what}: {purpose.remedy}")
