"""
Compares the overhead of a run with `horovodrun`, for the same script on the same machine.

    python benchmarks/launch.py [--runs 7] [--horovodrun-options "--network-interface lo"]

- Launch: to rank 0's first training step, from the time when the last node has joined (run) or from the start of the
  command (`horovodrun`).
- End: from the end of the last rank to the state *Terminate* (run) or to the end of the command (`horovodrun`).

Both have two ranks and alternate, so that a machine that gets slower affects both.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from horovod_local import LocalCloud

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "step_marks.py"


def main() -> None:
    """Run both alternately, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="number of runs of each, after one to warm up")
    parser.add_argument("--horovodrun-options", default="--network-interface lo")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {"cdk-horovod": [], "horovodrun": []}
    with LocalCloud() as cloud, tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "cdk.out"
        subprocess.run(["cdk", "synth", "--quiet", "--output", str(assembly)], cwd=HERE.parent, check=True)
        cloud.deploy(assembly, tell=lambda _line: None)
        measures: Mapping[str, Callable[[Path], tuple[float, float]]] = {
            "cdk-horovod": lambda marks: measure_run(cloud, marks),
            "horovodrun": lambda marks: measure_horovodrun(marks, shlex.split(options.horovodrun_options)),
        }
        for number in range(options.runs + 1):
            for name, measure in measures.items():
                marks = Path(folder) / f"{name}-{number}"
                marks.mkdir()
                seconds = measure(marks)
                print(f"{number or 'warm-up'} {name}: launch {seconds[0]:.2f} s, end {seconds[1]:.2f} s", flush=True)
                if number:
                    rows[name].append(seconds)
    print(f"\n{'':14}{'launch to first step':>32}{'end':>26}   ({options.runs} runs: median, minimum to maximum)")
    for name, seconds in rows.items():
        columns = [
            f"{statistics.median(part):.2f} s, {min(part):.2f} to {max(part):.2f}"
            for part in zip(*seconds, strict=True)
        ]
        print(f"{name:14}{columns[0]:>32}{columns[1]:>26}")


def measure_run(cloud: LocalCloud, marks: Path) -> tuple[float, float]:
    """Measure one whole run in the local cloud."""
    before = set(cloud.home.glob("instances/*/node.log"))
    run = cloud.training().fit(SCRIPT, gpus=2, hyperparameters={"marks": str(marks)})
    run.wait(poll_seconds=0.2)
    joined = max(joined_at(log) for log in set(cloud.home.glob("instances/*/node.log")) - before)
    history = cloud.client("stepfunctions").get_execution_history(executionArn=run.execution_arn, maxResults=1000)
    (terminate,) = [
        event["timestamp"].timestamp()
        for event in history["events"]
        if event.get("stateEnteredEventDetails", {}).get("name") == "Terminate"
    ]
    return first_step(marks) - joined, terminate - last_end(marks)


def joined_at(log: Path) -> float:
    """Read from an agent's log the time at which its node joined, in epoch seconds."""
    match = re.search(r"^(\d\d:\d\d:\d\d\.\d{3}) horovod_node: \S+ joins ", log.read_text(), flags=re.MULTILINE)
    assert match, f"{log} has no line about joining"
    now = datetime.now()
    joined = datetime.combine(now.date(), datetime.strptime(match[1], "%H:%M:%S.%f").time())
    return (joined if joined <= now else joined - timedelta(days=1)).timestamp()


def measure_horovodrun(marks: Path, options: list[str]) -> tuple[float, float]:
    """Measure one bare `horovodrun` on this machine."""
    started = time.time()
    ranks = ["-np", "2", "-H", "localhost:2", "--gloo", *options]
    subprocess.run(
        ["horovodrun", *ranks, sys.executable, str(SCRIPT), "--marks", str(marks)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return first_step(marks) - started, time.time() - last_end(marks)


def first_step(marks: Path) -> float:
    """Read the time of rank 0's first step, in epoch seconds."""
    return float(json.loads((marks / "0.json").read_text())["first_step"])


def last_end(marks: Path) -> float:
    """Read the time at which the last rank ended its training, in epoch seconds."""
    return max(float(json.loads(path.read_text())["end"]) for path in marks.glob("*.json"))


if __name__ == "__main__":
    main()
