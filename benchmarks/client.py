"""
Measures two waiting times of a user of the client.

    python benchmarks/client.py [--lines 100] [--imports 11]

- Import: `import horovod_client` in a new process, minus an empty program of the same interpreter, measured in turn.
- Line: from a script's `print` on a node in the local cloud to `Run.logs(follow=True)` on this machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from horovod_local import LocalCloud

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure both times, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100, help="number of lines that the script prints")
    parser.add_argument("--imports", type=int, default=11, help="number of imports, after one to warm up")
    options = parser.parse_args()
    print(f"import  {spread(import_seconds(options.imports))}", flush=True)
    with LocalCloud() as cloud, tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "cdk.out"
        subprocess.run(["cdk", "synth", "--quiet", "--output", str(assembly)], cwd=HERE.parent, check=True)
        cloud.deploy(assembly, tell=lambda _line: None)
        print(f"line    {spread(line_seconds(cloud, options.lines))}")


def import_seconds(count: int) -> list[float]:
    """Measure imports in new processes."""
    seconds = []
    for _ in range(count + 1):
        empty = program_seconds("pass")
        seconds.append(program_seconds("import horovod_client") - empty)
    return seconds[1:]


def program_seconds(program: str) -> float:
    """Measure one Python program, from start to end, in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


def line_seconds(cloud: LocalCloud, lines: int) -> list[float]:
    """Follow a run's log, and compare each line's arrival with the time that it contains."""
    run = cloud.training().fit(HERE / "print_times.py", gpus=2, hyperparameters={"lines": lines})
    seconds = [time.time() - float(line.text) for line in run.logs(follow=True) if is_number(line.text)]
    assert len(seconds) == lines, f"{len(seconds)} of {lines} lines came"
    return seconds


def is_number(text: str) -> bool:
    """Whether a line is from the script, and not from one of its libraries."""
    return text.replace(".", "", 1).isdigit()


def spread(seconds: Sequence[float]) -> str:
    """Format median, range and number of the measurements."""
    return f"{statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} ({len(seconds)} times)"


if __name__ == "__main__":
    main()
