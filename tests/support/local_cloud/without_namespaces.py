"""
`python without_namespaces.py PROGRAM [ARGUMENT…]`: become PROGRAM, in which the kernel permits no `unshare`.

A filter of system calls, as most container engines set one for what runs in their containers (seccomp(2)).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_NUMBER = {"x86_64": 272, "aarch64": 97}[platform.machine()]
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000


def main(*program: str) -> None:
    """Take the system call away, and become *program*."""
    steps = [
        (_LOAD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 0, 1, _NUMBER),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    filter_ = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    for option, *rest in ((_PR_SET_NO_NEW_PRIVS, 1, None), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, filter_)):
        if library.prctl(option, *rest, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl failed")
    os.execvp(program[0], program)  # noqa: S606 - the test's own command


if __name__ == "__main__":
    main(*sys.argv[1:])
