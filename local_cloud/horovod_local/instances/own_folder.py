"""
`python own_folder.py TARGET FOLDER [PROGRAM ARGUMENT…]`: become PROGRAM, which finds FOLDER at TARGET.

So does all that it starts, and nobody else: it gets a mount namespace of its own. Nothing is written on the machine,
and the namespace is gone with the last process in it. Whoever may not mount gets a user namespace besides, with this
one user in it (user_namespaces(7)). Without PROGRAM it is only tried. Where the machine does not permit it, the exit
code is `REFUSED`, after a line that says why.

Imports the standard library alone: every node starts through it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

REFUSED: Final = 70

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_RDONLY: Final = 0x0001
_MS_REMOUNT: Final = 0x0020
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 0x80000
"""Of sched.h and sys/mount.h, the same for every kind of processor."""


def main(target: str, folder: str, *program: str) -> int:
    """Become *program*, or say why not."""
    here = Path.cwd()
    try:
        _enter_namespace()
        _put(Path(folder), at=Path(target))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, file=sys.stderr)
        return REFUSED
    if program:
        # By its path again: what lies beside TARGET has been mounted anew.
        os.chdir(here)
        os.execvp(program[0], program)  # noqa: S606 - the caller's own command
    return 0


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNS)
    except PermissionError:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        # Without it, whoever is kept out of a file by a group could leave the group (user_namespaces(7)).
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # What the machine mounts still comes here; what is mounted here stays here.
    _call("mount", None, b"/", None, _MS_REC | _MS_SLAVE, None)


def _put(folder: Path, *, at: Path) -> None:
    source = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    if not at.is_dir():
        _make_room(at)
    os.fchdir(source)
    _bind(".", at)


def _make_room(path: Path) -> None:
    """Make the folder *path* in a copy of its parent that has, by mounts, all that the parent has."""
    parent = path.parent
    covered = os.open(parent, os.O_PATH | os.O_DIRECTORY)
    entries = list(os.scandir(parent))
    _call("mount", b"tmpfs", os.fsencode(parent), b"tmpfs", 0, b"mode=755")
    path.mkdir()
    os.fchdir(covered)
    for entry in entries:
        copy = parent / entry.name
        if copy == path:  # a file, or a link that leads nowhere
            continue
        if entry.is_symlink():
            copy.symlink_to(Path(entry.name).readlink())
            continue
        if entry.is_dir():
            copy.mkdir()
        else:
            copy.touch()
        _bind(entry.name, copy)
    # What is written beside the copies would be lost with the node, without a word.
    _call("mount", None, os.fsencode(parent), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)


def _bind(source: str, target: Path) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    function = None
    with suppress(AttributeError):  # not Linux's
        function = getattr(library, name)
    if function is None or function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number) if function else "is not known here", name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
