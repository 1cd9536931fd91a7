"""
Compares how many images a second a script trains as a run's ranks and under bare `horovodrun`, on the same machine.

    python benchmarks/fidelity.py [--by process run] [--pairs 5] [--kinds fit loop helper] [--steps 300]

There are three kinds of script (`images.py`): Keras's `fit` with Horovod's optimizer, a custom loop with `tf.function`
and Horovod's tape, and the training helper. The first two run the same script in both ways. The helper is compared with
the first one under `horovodrun`, which is what it replaces.

`process` measures what the library adds to the script's process: `horovodrun` starts the ranks in both ways, once as
the agent starts them (`as_a_rank.py`) and once bare. `run` measures whole runs in the local cloud. Its agents and the
cloud itself take their share of this machine's cores; on EC2 the cloud is elsewhere, and nodes have more cores than
ranks.

Two ranks; one of each way makes a pair, and the order alternates, so that a machine that becomes slower does so for
both. Each script counts its images itself, from the end of its warm-up to its last step. Only the ratios of pairs mean
something.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from horovod_local import LocalCloud

HERE: Final = Path(__file__).resolve().parent
SCRIPT: Final = HERE / "images.py"
AS_A_RANK: Final = HERE / "as_a_rank.py"
HOROVODRUN: Final = ["horovodrun", "-np", "2", "-H", "localhost:2", "--gloo", "--network-interface", "lo"]
KINDS: Final = {"fit": "fit", "loop": "loop", "helper": "fit"}
"""Each kind, and the kind with which it is compared under `horovodrun`."""
Measured = tuple[float, float]
"""Images per second of all ranks, and seconds of processor time per image of rank 0."""


def main() -> None:
    """Measure pairs of each kind, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by", nargs="+", choices=["process", "run"], default=["process"])
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs of each kind, after one to warm up")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=300, help="counted steps of each run")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        cloud = stack.enter_context(deployed(Path(folder))) if "run" in options.by else None
        result = Path(folder) / "rate.json"
        for ours, kind in itertools.product(options.by, options.kinds):
            pairs = []
            for number in range(options.pairs + 1):
                ways = [ours, "horovodrun"][:: -1 if number % 2 else 1]
                rates = {way: measure(way, kind, options.steps, result, cloud=cloud) for way in ways}
                print(f"{number or 'warm-up'} {kind}: {rates[ours]} {rates['horovodrun']}", flush=True)
                if number:
                    pairs.append((rates[ours], rates["horovodrun"]))
            rows.append(row(ours, kind, pairs))
    print(
        "\n| by | script | images/s of ours | under `horovodrun` | ratio | ratio of processor time |\n"
        "|---|---|---|---|---|---|"
    )
    print("\n".join(rows))


@contextlib.contextmanager
def deployed(folder: Path) -> Iterator[LocalCloud]:
    """Deploy the app into a local cloud of its own."""
    assembly = folder / "cdk.out"
    with LocalCloud() as cloud:
        subprocess.run(["cdk", "synth", "--quiet", "--output", str(assembly)], cwd=HERE.parent, check=True)
        cloud.deploy(assembly, tell=lambda _line: None)
        yield cloud


def measure(way: str, kind: str, steps: int, result: Path, *, cloud: LocalCloud | None) -> Measured:
    """Run the script in one way, and return its measurements."""
    result.unlink(missing_ok=True)
    if way == "run":
        assert cloud is not None
        asked = {"kind": kind, "steps": steps, "result": str(result)}
        # Seldom: the local cloud answers polls with the processors on which the script trains.
        cloud.training().fit(SCRIPT, gpus=2, hyperparameters=asked).wait(poll_seconds=20)
    else:
        bare = way == "horovodrun"
        script = [str(SCRIPT)] if bare else [str(AS_A_RANK), str(result.parent), str(SCRIPT)]
        arguments = ["--kind", KINDS[kind] if bare else kind, "--steps", str(steps), "--result", str(result)]
        subprocess.run(
            [*HOROVODRUN, sys.executable, *script, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    measured = json.loads(result.read_text())
    return float(measured["rate"]), float(measured["processor"])


def row(way: str, kind: str, pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """Format a row of the table."""
    rates = [statistics.median(measured[0] for measured in way) for way in zip(*pairs, strict=True)]
    ratios = [spread([ours[part] / theirs[part] for ours, theirs in pairs]) for part in (0, 1)]
    return f"| {way} | {kind} | {rates[0]:.0f} | {rates[1]:.0f} | {ratios[0]} | {ratios[1]} |"


def spread(ratios: Sequence[float]) -> str:
    """Format median and range of the ratios."""
    return f"{statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"


if __name__ == "__main__":
    main()
