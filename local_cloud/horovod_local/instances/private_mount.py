"""
`python private_mount.py TARGET[:ro] FOLDER [PROGRAM ARGUMENT…]`: run PROGRAM with FOLDER mounted at TARGET.

With `:ro`, as in Docker, PROGRAM can only read the folder.

The mount is visible only to PROGRAM and its child processes, in a new mount namespace. Nothing is written to the
machine's file system, and the namespace ends with its last process. A user without permission to mount also gets a user
namespace with only this user in it (user_namespaces(7)). Without PROGRAM the mount is only tried. If the machine does
not permit it, one line says why and the exit code is `REFUSED`.

Imports only the standard library, because every node starts through this program.
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
_MS_RELATIME: Final = 0x200000
"""Constants of sched.h and sys/mount.h, the same on every processor architecture."""
_KEPT_OPTIONS: Final = {2: 2, 4: 4, 8: 8, 0x0400: 0x0400, 0x0800: 0x0800, 0x1000: _MS_RELATIME}
"""Flags of statvfs(3) and options of mount(2): nosuid, nodev, noexec, noatime, nodiratime, relatime."""


def main(target: str, folder: str, *program: str) -> int:
    """Mount *folder* at *target* and replace this process with *program*; return `REFUSED` if that is not permitted."""
    here, at = Path.cwd(), Path(target.removesuffix(":ro"))
    try:
        _enter_namespace()
        _put(Path(folder), at=at)
        if target.endswith(":ro"):
            _make_read_only(at)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, file=sys.stderr)
        return REFUSED
    if program:
        # Enter the working directory again by its path: the folders beside TARGET are new mounts.
        os.chdir(here)
        os.execvp(program[0], program)  # noqa: S606 - the caller's own command
    return 0


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    try:
        _call("unshare", _CLONE_NEWNS)
    except PermissionError:
        _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
        # Otherwise a user who is denied access through a group could drop that group (user_namespaces(7)).
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # Later mounts of the machine still appear here, but mounts made here do not appear on the machine.
    _call("mount", None, b"/", None, _MS_REC | _MS_SLAVE, None)


def _put(folder: Path, *, at: Path) -> None:
    if folder.is_file():  # which replaces another file
        _bind(str(folder), at)
        return
    source = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    if not at.is_dir():
        _make_room(at)
    os.fchdir(source)
    _bind(".", at)


def _make_read_only(path: Path) -> None:
    # A mount in a user namespace must keep the options of the mount that it repeats (mount_namespaces(7)).
    kept = os.statvfs(path).f_flag
    options = _MS_REMOUNT | _MS_BIND | _MS_RDONLY
    for found, option in _KEPT_OPTIONS.items():
        options |= option if kept & found else 0
    _call("mount", None, os.fsencode(path), None, options, None)


def _make_room(path: Path) -> None:
    """Create the folder *path* in a tmpfs that replaces its parent and has all entries of the parent as bind mounts."""
    parent = path.parent
    covered = os.open(parent, os.O_PATH | os.O_DIRECTORY)
    entries = list(os.scandir(parent))
    _call("mount", b"tmpfs", os.fsencode(parent), b"tmpfs", 0, b"mode=755")
    path.mkdir()
    os.fchdir(covered)
    for entry in entries:
        copy = parent / entry.name
        if copy == path:  # a file, or a dangling link
            continue
        if entry.is_symlink():
            copy.symlink_to(Path(entry.name).readlink())
            continue
        if entry.is_dir():
            copy.mkdir()
        else:
            copy.touch()
        _bind(entry.name, copy)
    # Read-only, because files written beside the mounts would silently be lost with the node.
    _call("mount", None, os.fsencode(parent), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None)


def _bind(source: str, target: Path) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), None, _MS_BIND | _MS_REC, None)


def _call(name: str, *arguments: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    function = None
    with suppress(AttributeError):  # not on Linux
        function = getattr(library, name)
    if function is None or function(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number) if function else "is not known here", name)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
