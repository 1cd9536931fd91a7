"""Scripts on two ranks of this machine, without agents: by Horovod's own launcher."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TWO_RANKS = ("-np", "2", "-H", "localhost:2", "--gloo", "--gloo-timeout-seconds", "240")
"""Options of `horovodrun`."""


def run_on_two_ranks(
    script: Path, *arguments: str, environment: Mapping[str, str], python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    """Run *script* to its end, and give what became of it."""
    return subprocess.run(
        [str(Path(python).parent / "horovodrun"), *TWO_RANKS, python, str(script), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
