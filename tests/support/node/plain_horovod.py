"""
Horovod without agents: scripts under its own launcher, and its own examples and tests.

Those are of the release that we run; neither its wheel nor its source archive holds them.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

import horovod_node

TWO_RANKS = ("-np", "2", "-H", "localhost:2", "--gloo", "--gloo-timeout-seconds", "240")
"""Options of `horovodrun`."""

COMMIT: Final = "1d217b59949986d025f6db93c49943fb6b6cc78f"
"""What v0.28.1 names: no other code is run, whoever moves the tag."""
ARCHIVE: Final = f"https://github.com/horovod/horovod/archive/{COMMIT}.tar.gz"
VARIABLE: Final = "HOROVOD_SOURCE"
"""Names a folder with a checkout of that commit, where the network does not reach the archive."""
_SECONDS: Final = 60

SUITE: Final = '''
"""`suite.py --file FILE --outcomes PATH`: runs one file of Horovod's parallel tests on all ranks alike."""
import argparse
import json
import os
import sys
from pathlib import Path

import pytest

parser = argparse.ArgumentParser()
parser.add_argument("--file")
parser.add_argument("--outcomes")
args = parser.parse_args()
here = Path(__file__).parent
outcomes = {}


class Outcomes:
    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            outcomes[report.nodeid.partition("::")[2]] = report.outcome


sys.path[:0] = [str(here), str(here / "test" / "utils")]
os.chdir(here)
options = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", str(here), "-c", os.devnull]
code = pytest.main([*options, str(here / "test" / "parallel" / args.file)], plugins=[Outcomes()])
Path(args.outcomes, os.environ["HOROVOD_RANK"] + ".json").write_text(json.dumps(outcomes))
# Failures are compared, and a test may fail both ways.
sys.exit(0 if outcomes else int(code) or 1)
'''


def cpu_environment(python: str = sys.executable, **more: str) -> dict[str, str]:
    """Give what a script finds on a machine without a GPU."""
    return {
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(horovod_node.__file__).parents[1]),
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }


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


def horovods_own(folder: Path) -> Path:
    """Put Horovod's examples and tests into *folder*, as a user's source; skips the test where they cannot be had."""
    named = os.environ.get(VARIABLE)
    if named:
        for part in ("examples", "test"):
            shutil.copytree(Path(named) / part, folder / part)
    else:
        try:
            with urllib.request.urlopen(ARCHIVE, timeout=_SECONDS) as answer:
                archive = io.BytesIO(answer.read())
        except (urllib.error.URLError, OSError) as reason:
            pytest.skip(f"Horovod's own examples and tests cannot be had ({reason}): name a checkout with {VARIABLE}")
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            root = f"horovod-{COMMIT}/"
            wanted = [member for member in tar if member.name.startswith((f"{root}examples/", f"{root}test/"))]
            for member in wanted:
                member.name = member.name.removeprefix(root)
            tar.extractall(folder, members=wanted, filter="data")
    (folder / "suite.py").write_text(SUITE)
    # The tests' `mock` is the standard library's.
    (folder / "mock.py").write_text("from unittest.mock import *  # noqa: F403\n")
    return folder
