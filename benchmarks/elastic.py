"""
Measures what it costs a ring to lose and to gain nodes, and what commits and checkpoints cost each step.

    python benchmarks/elastic.py [--runs 5]

Every figure comes from whole runs in the local cloud: real agents and real Horovod ranks, on loopback. Times are those
that the leader's rank 0 wrote down at its own steps.

- kill: the processes of one of three nodes die at once, and their connections with them.
- drop: they are stopped and say nothing more, as a host does that has vanished without a word.
- notice: EC2 announces that it will take one of three nodes away. The training goes on until the next commit, so the
  pause between two steps is what counts.
- join: a third node comes to a ring of two.
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
    """Measure everything and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each kind, in turn")
    parser.add_argument("--only", choices=["events", "overhead"], help="one of the two tables")
    options = parser.parse_args()
    with cloud() as bench:
        if options.only != "overhead":
            measure_events(bench, runs=options.runs)
        if options.only != "events":
            measure_overhead(bench, runs=options.runs)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The deployed app."""

    cloud: LocalCloud
    training: TrainingClient

    def start(self, *, steps: int, gpus: int = 3, **hyperparameters: object) -> Run:
        """Start a run that may have from one to *gpus* GPUs."""
        named = {name.replace("_", "-"): value for name, value in hyperparameters.items()}
        return self.training.fit(SCRIPT, gpus=gpus, min_gpus=1, hyperparameters={"steps": steps, **named})

    def marks(self, instance: str) -> list[tuple[float, int]]:
        """Read the time of each step of a node, and the ring's size at it."""
        files = (self.cloud.home / "instances" / instance / "ml").glob("marks-*.jsonl")
        found = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("]")]
        return sorted((float(at), int(size)) for at, size in found)

    def leader(self, run: Run) -> str:
        """Name the instance that leads the run's first attempt, once there is one."""
        key = contract.leader_key(run.connection.fleets[0].id, run.run_id, 1)
        names = {contract.PARTITION_KEY: {"S": key[0]}, contract.SORT_KEY: {"S": key[1]}}

        def look() -> str:
            table = run.connection.ledger_table
            item = self.cloud.client("dynamodb").get_item(TableName=table, Key=names, ConsistentRead=True).get("Item")
            return str(item[contract.NODE]["S"]) if item else ""

        return wait_for(look)

    def spot(self) -> LocalInstance:
        """Give a node that may be lost."""
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
    """Disturb runs in each way, in turn, and print what it cost them."""
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
    """Take a node away without a word: seconds until the first step of the ring without it, and steps repeated."""
    run, leader = begin(bench, size=3)
    at = time.time()
    take(bench.spot().instance_id)
    smaller = wait_for(lambda: next((each for each in bench.marks(leader) if each[0] > at and each[1] < 3), None))
    return smaller[0] - at, end(bench, run)


def notice(bench: Bench) -> tuple[float, int]:
    """Give notice of a node's end: the longest pause between two steps until the ring is smaller."""
    run, leader = begin(bench, size=3)
    at = time.time()
    bench.cloud.interrupt(bench.spot().instance_id, notice_seconds=60)
    wait_for(lambda: any(when > at and size < 3 for when, size in bench.marks(leader)))
    return pause(bench.marks(leader), since=at), end(bench, run)


def join(bench: Bench) -> tuple[float, int]:
    """Let a node come: the longest pause between two steps until the ring is larger."""
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
    """Find the longest time between two steps, up to the first one in a ring of another size."""
    steps = [mark for mark in marks if mark[0] > since - 1]
    first = next(place for place, mark in enumerate(steps) if mark[0] > since and mark[1] != steps[0][1])
    return max(after[0] - before[0] for before, after in pairwise(steps[: first + 1]))


def end(bench: Bench, run: Run) -> int:
    """Stop the run, and tell how many steps it has repeated."""
    time.sleep(8)  # from the script over the agent to the ledger it takes up to four
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
    """Train the same with commits and checkpoints more or less often, in turn, and print the time of a step."""
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
            # The first steps compile, and the ring may have begun with one rank.
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


def wait_for(look: Callable[[], object]) -> object:
    """Wait until there is something to see, and give it."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not (seen := look()):
        if time.monotonic() > give_up_at:
            sys.exit(f"nothing happened for {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.05)
    return seen


if __name__ == "__main__":
    main()
