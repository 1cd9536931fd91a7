"""
Compares how many images a second a script trains in a run and under bare `horovodrun`, on the same machine.

    python benchmarks/fidelity.py [--pairs 5] [--kinds fit loop helper] [--steps 300]

Three kinds of script (`images.py`): Keras's `fit` with Horovod's optimizer, a loop of one's own with `tf.function` and
Horovod's tape, and the training helper. The first two are the same script both ways. The helper stands against the
first under `horovodrun`, which is what it replaces.

Two ranks; a run in the local cloud and a `horovodrun` make a pair, and every other pair begins with the other one, so
that a machine that gets slower does so for both. Each counts its images itself, from the end of its warm-up to its last
step. Only the ratios of pairs mean something. Where other work takes turns on the processors, so that images a second
tell little, the processor time of rank 0 for an image tells more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from horovod_local import LocalCloud

HERE: Final = Path(__file__).resolve().parent
SCRIPT: Final = HERE / "images.py"
KINDS: Final = {"fit": "fit", "loop": "loop", "helper": "fit"}
"""What each kind is compared with."""
Measured = tuple[float, float]


def main() -> None:
    """Run pairs of each kind, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="counted pairs of each kind, after one that warms up")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=300, help="steps that count, of each run")
    options = parser.parse_args()
    rows = []
    with LocalCloud() as cloud, tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "cdk.out"
        subprocess.run(["cdk", "synth", "--quiet", "--output", str(assembly)], cwd=HERE.parent, check=True)
        cloud.deploy(assembly, tell=lambda _line: None)
        result = Path(folder) / "rate.json"
        for kind in options.kinds:
            pairs = []
            for number in range(options.pairs + 1):
                ways = ["run", "horovodrun"][:: -1 if number % 2 else 1]
                rates = {way: measure(way, kind, options.steps, result, cloud=cloud) for way in ways}
                print(f"{number or 'warm-up'} {kind}: {rates['run']} {rates['horovodrun']}", flush=True)
                if number:
                    pairs.append((rates["run"], rates["horovodrun"]))
            rows.append(row(kind, pairs))
    print(
        "\n| script | images/s in a run | under `horovodrun` | ratio | ratio of processor time |\n|---|---|---|---|---|"
    )
    print("\n".join(rows))


def measure(way: str, kind: str, steps: int, result: Path, *, cloud: LocalCloud) -> Measured:
    """Run the script one way, and give its images a second, and the processor time of one."""
    result.unlink(missing_ok=True)
    if way == "run":
        arguments = {"kind": kind, "steps": steps, "result": str(result)}
        cloud.training().fit(SCRIPT, gpus=2, hyperparameters=arguments).wait(poll_seconds=0.5)
    else:
        script = [sys.executable, str(SCRIPT), "--kind", KINDS[kind], "--steps", str(steps), "--result", str(result)]
        subprocess.run(
            ["horovodrun", "-np", "2", "-H", "localhost:2", "--gloo", "--network-interface", "lo", *script],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    measured = json.loads(result.read_text())
    return float(measured["rate"]), float(measured["processor"])


def row(kind: str, pairs: Sequence[tuple[Measured, Measured]]) -> str:
    """Write a row of the table."""
    rates = [statistics.median(measured[0] for measured in way) for way in zip(*pairs, strict=True)]
    ratios = [spread([ours[part] / theirs[part] for ours, theirs in pairs]) for part in (0, 1)]
    return f"| {kind} | {rates[0]:.0f} | {rates[1]:.0f} | {ratios[0]} | {ratios[1]} |"


def spread(ratios: Sequence[float]) -> str:
    """Write median and range of some measurements."""
    return f"{statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"


if __name__ == "__main__":
    main()
