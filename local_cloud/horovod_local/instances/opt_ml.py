"""A private `/opt/ml` for each node, as in a container. Where the machine forbids it, nodes get a path instead."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from horovod_node import contract

_PROGRAM: Final = Path(__file__).with_name("private_mount.py")


def command(
    folder: Path, program: Sequence[str], *, at: str = contract.DEFAULT_ML_ROOT, read_only: bool = False
) -> list[str]:
    """
    Return the command that runs *program* with *folder* mounted, for it and its child processes.

    Args:
        folder: The folder.
        program: The program with its arguments.
        at: Absolute path at which it finds the folder. Default: `/opt/ml`.
        read_only: Whether it can only read the folder. Default: no.
    """
    # -I and -S make Python start faster.
    target = f"{at}:ro" if read_only else at
    return [sys.executable, "-I", "-S", str(_PROGRAM), target, str(folder), *program]


def unavailable_reason() -> str:
    """Return why nodes cannot have a private `/opt/ml` on this machine; '' if they can."""
    with tempfile.TemporaryDirectory(prefix="horovod-local-") as folder:
        tried = subprocess.run(command(Path(folder), []), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return tried.stderr.decode(errors="replace").strip() if tried.returncode else ""


def explanation(reason: str) -> str:
    """Return the sentence for users that says what this means for scripts."""
    return (
        f"nodes have no private {contract.DEFAULT_ML_ROOT} on this machine ({reason}): scripts must find their folders "
        "by SM_MODEL_DIR, SM_CHECKPOINT_DIR and the like"
    )
