"""
Measures the time that a ring needs to lose or gain a node, and the overhead of commits and checkpoints per step.

    python benchmarks/elastic.py [--runs 5]

All measurements are of whole runs in the local cloud, with real agents and real Horovod ranks on loopback. Times are
those that rank 0 of the leader records at each step.

- kill: one of three nodes is killed, and its connections are closed.
- drop: the processes of one of three nodes are stopped, as if the network had failed.
- notice: one of three nodes gets an interruption notice. The training continues until the next commit, so the longest
  pause between two steps is measured.
- join: nodes join a ring of one node; the longest pause between two steps is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from horovod_client import Run, TrainingClient
from horovod_local import Faults, LocalCloud, LocalInstance, Refusal
from horovod_node import contract

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "steps.py"
CONTEXT = {
    "instance_types": "g5.xlarge",
    "max_gpus": 3,
    "on_demand_base_gpus": 1,
    "heartbeat_seconds": 8,
    "launch_seconds": 60,
    "poll_seconds": 1,
}
STEP_SECONDS = 0.05
COMMIT_EVERY = 10
PATIENCE_SECONDS = 180.0


def main() -> None:
    """Measure both, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="number of runs of each kind, in turn")
    parser.add_argument("--only", choices=["events", "overhead"], help="measure only one of the two tables")
    options = parser.parse_args()
    with cloud() as bench:
        if options.only != "overhead":
            measure_events(bench, runs=options.runs)
        if options.only != "events":
            measure_overhead(bench, runs=options.runs)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The local cloud with the deployed app."""

    cloud: LocalCloud
    training: TrainingClient

    def start(self, *, steps: int, gpus: int = 3, **hyperparameters: object) -> Run:
        """Start an elastic run with 1 to *gpus* GPUs."""
        named = {name.replace("_", "-"): value for name, value in hyperparameters.items()}
        return self.training.fit(SCRIPT, gpus=gpus, min_gpus=1, hyperparameters={"steps": steps, **named})

    def marks(self, instance: str) -> list[tuple[float, int]]:
        """Read the time of each step of a node, and the size of the ring at that step."""
        files = (self.cloud.home / "instances" / instance / "ml").glob("marks-*.jsonl")
        found = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("]")]
        return sorted((float(at), int(size)) for at, size in found)

    def leader(self, run: Run) -> str:
        """Wait for the leader of the run's first attempt, and return the id of its instance."""
        key = contract.leader_key(run.connection.fleets[0].id, run.run_id, 1)
        names = {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}

        def read_leader() -> str:
            table = run.connection.ledger_table
            item = self.cloud.client("dynamodb").get_item(TableName=table, Key=names, ConsistentRead=True).get("Item")
            return str(item[contract.NODE]["S"]) if item else ""

        return wait_for(read_leader)

    def spot(self) -> LocalInstance:
        """Return a Spot node, which may be lost."""
        return next(each for each in self.cloud.instances() if each.market == contract.SPOT)


@contextmanager
def cloud() -> Iterator[Bench]:
    """Deploy the app into a local cloud."""
    with LocalCloud() as local, tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "cdk.out"
        context = [part for name, value in CONTEXT.items() for part in ("--context", f"horovod:{name}={value}")]
        subprocess.run(["cdk", "synth", "--quiet", "--output", str(assembly), *context], cwd=HERE.parent, check=True)
        local.deploy(assembly, tell=lambda _line: None)
        yield Bench(cloud=local, training=local.training())


def measure_events(bench: Bench, *, runs: int) -> None:
    """Measure each kind of event in turn, and print a table."""
    kinds: dict[str, Callable[[Bench], tuple[float, int]]] = {
        "kill": lambda bench: lose(bench, lambda node: bench.cloud.lose(node)),
        "drop": lambda bench: lose(bench, lambda node: bench.cloud.drop(node)),
        "notice": lambda bench: notice(bench),
        "join": lambda bench: join(bench),
    }
    rows: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    for number in range(runs):
        for kind, measure in kinds.items():
            seconds, repeated = measure(bench)
            print(f"{number + 1} {kind}: {seconds:.2f} s, {repeated} steps repeated", flush=True)
            rows[kind].append((seconds, repeated))
    print(f"\n{'':8}{'until the next step':>32}{'steps repeated':>22}   ({runs} runs: median, minimum to maximum)")
    for kind, found in rows.items():
        seconds, repeated = zip(*found, strict=True)
        spread = f"{statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{kind:8}{spread:>32}{f'{statistics.median(repeated):g}, {min(repeated)} to {max(repeated)}':>22}")


def lose(bench: Bench, take: Callable[[str], None]) -> tuple[float, int]:
    """Lose a node without notice: return the seconds to the first step of the smaller ring, and the repeated steps."""
    run, leader = begin(bench, size=3)
    at = time.time()
    take(bench.spot().instance_id)
    smaller = wait_for(lambda: next((each for each in bench.marks(leader) if each[0] > at and each[1] < 3), None))
    return smaller[0] - at, end(bench, run)


def notice(bench: Bench) -> tuple[float, int]:
    """Interrupt a node with notice: return the longest pause until the ring is smaller, and the repeated steps."""
    run, leader = begin(bench, size=3)
    at = time.time()
    bench.cloud.interrupt(bench.spot().instance_id, notice_seconds=60)
    wait_for(lambda: any(when > at and size < 3 for when, size in bench.marks(leader)))
    return pause(bench.marks(leader), since=at), end(bench, run)


def join(bench: Bench) -> tuple[float, int]:
    """Let nodes join: return the longest pause until the ring is larger, and the repeated steps."""
    zones = sorted(
        {each.zone for each in bench.cloud.instances()} | {f"{bench.cloud.region}{letter}" for letter in "abc"}
    )
    bench.cloud.set_faults(Faults(refused=tuple(Refusal(market="spot", zone=zone) for zone in zones)))
    try:
        run, leader = begin(bench, size=1)
    finally:
        bench.cloud.set_faults(Faults())
    at = time.time()
    wait_for(lambda: any(size > 1 for _, size in bench.marks(leader)))
    return pause(bench.marks(leader), since=at), end(bench, run)


def begin(bench: Bench, *, size: int) -> tuple[Run, str]:
    """Start a run, and wait until a ring of *size* ranks has taken some steps."""
    run = bench.start(steps=3000, step_seconds=STEP_SECONDS, commit_every=COMMIT_EVERY)
    leader = bench.leader(run)
    wait_for(lambda: sum(each == size for _, each in bench.marks(leader)) >= 3 * COMMIT_EVERY)
    return run, leader


def pause(marks: list[tuple[float, int]], *, since: float) -> float:
    """Return the longest time between two steps, up to the first step in a ring of another size."""
    steps = [mark for mark in marks if mark[0] > since - 1]
    first = next(place for place, mark in enumerate(steps) if mark[0] > since and mark[1] != steps[0][1])
    return max(after[0] - before[0] for before, after in pairwise(steps[: first + 1]))


def end(bench: Bench, run: Run) -> int:
    """Stop the run, and return the number of its repeated steps."""
    time.sleep(8)  # the count reaches the ledger, through script and agent, within 4 s
    key = contract.progress_key(run.connection.fleets[0].id, run.run_id)
    item = bench.cloud.client("dynamodb").get_item(
        TableName=run.connection.ledger_table,
        Key={contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}},
        ConsistentRead=True,
    )["Item"]
    repeated = int(json.loads(item[contract.PROGRESS_JSON]["S"])["repeated_steps"])
    run.stop()
    wait_for(lambda: not bench.cloud.instances())
    return repeated


def measure_overhead(bench: Bench, *, runs: int) -> None:
    """Train with different intervals of commits and checkpoints, in turn, and print the time of a step."""
    kinds = {
        "neither": {"commit_every": 100_000, "checkpoint_every": 100_000},
        "defaults": {},
        "commit every step": {"commit_every": 1, "checkpoint_every": 100_000},
        "checkpoint every 20 steps": {"commit_every": 100_000, "checkpoint_every": 20},
    }
    rows: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(runs):
        for kind, hyperparameters in kinds.items():
            run = bench.start(steps=600, gpus=2, width=1024, **hyperparameters)
            leader = bench.leader(run)
            run.wait(poll_seconds=0.5)
            # Skip the first steps, which compile, and those of a ring with one rank.
            times = [at for at, size in bench.marks(leader) if size == 2][20:]
            seconds = (times[-1] - times[0]) / (len(times) - 1)
            print(f"{number + 1} {kind}: {seconds * 1000:.1f} ms a step", flush=True)
            rows[kind].append(seconds)
    base = rows["neither"]
    print(f"\n{'':28}{'ms a step':>26}{'to neither':>28}   ({runs} runs: median, minimum to maximum)")
    for kind, found in rows.items():
        ratios = [each / of for each, of in zip(found, base, strict=True)]
        spread = f"{statistics.median(found) * 1000:.1f}, {min(found) * 1000:.1f} to {max(found) * 1000:.1f}"
        print(f"{kind:28}{spread:>26}{f'{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}':>28}")


def wait_for(read: Callable[[], object]) -> object:
    """Call *read* until it returns a true value, and return that value."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not (value := read()):
        if time.monotonic() > give_up_at:
            sys.exit(f"an expected event did not happen within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.05)
    return value


if __name__ == "__main__":
    main()
