"""`/opt/ml` of a node: its own folder, as in a container; where the machine does not permit that, it is told where."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from horovod_node import contract

_PROGRAM: Final = Path(__file__).with_name("own_folder.py")


def command(folder: Path, program: Sequence[str]) -> list[str]:
    """Give the command that runs *program* so that it, and all that it starts, finds *folder* at `/opt/ml`."""
    # -I and -S: it needs none of what would make it slow to start.
    return [sys.executable, "-I", "-S", str(_PROGRAM), contract.DEFAULT_ML_ROOT, str(folder), *program]


def refusal() -> str:
    """Tell why nodes cannot have an `/opt/ml` of their own on this machine; '' if they can."""
    with tempfile.TemporaryDirectory(prefix="horovod-local-") as folder:
        tried = subprocess.run(command(Path(folder), []), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    return tried.stderr.decode(errors="replace").strip() if tried.returncode else ""


def sentence(refusal: str) -> str:
    """Say what a *refusal* means for scripts."""
    return (
        f"this machine gives nodes no {contract.DEFAULT_ML_ROOT} of their own ({refusal}): scripts find their folders "
        "by SM_MODEL_DIR, SM_CHECKPOINT_DIR and the like alone"
    )
