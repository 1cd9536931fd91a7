"""
Compares the images per second of a script in a run and with bare `horovodrun`, on the same machine.

    python benchmarks/fidelity.py [--pairs 5] [--kinds fit loop helper] [--steps 300]

There are three kinds of script (`images.py`): Keras's `fit` with Horovod's optimizer, a custom loop with `tf.function`
and Horovod's tape, and the training helper. The first two use the same script in both. The helper is compared with the
first kind under `horovodrun`, which it replaces.

All have two ranks. A run in the local cloud and a `horovodrun` are a pair, whose order alternates, so that a machine
that gets slower affects both. Scripts count images from the end of their warm-up to the last step. Only the ratios
within pairs are meaningful. If other programs use the processors, the processor time of rank 0 per image is more
meaningful than images per second.
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
"""Each kind, and the kind with which it is compared under `horovodrun`."""
Measured = tuple[float, float]
"""Images per second of all ranks, and seconds of processor time per image of rank 0."""


def main() -> None:
    """Measure pairs of each kind, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="number of pairs of each kind, after one to warm up")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--steps", type=int, default=300, help="counted steps of each run")
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
    """Run the script in a run or with `horovodrun`, and return its measurements."""
    result.unlink(missing_ok=True)
    if way == "run":
        arguments = {"kind": kind, "steps": steps, "result": str(result)}
        # Seldom: the local cloud answers polls with the processors on which the script trains.
        cloud.training().fit(SCRIPT, gpus=2, hyperparameters=arguments).wait(poll_seconds=20)
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
    """Format a row of the table."""
    rates = [statistics.median(measured[0] for measured in way) for way in zip(*pairs, strict=True)]
    ratios = [spread([ours[part] / theirs[part] for ours, theirs in pairs]) for part in (0, 1)]
    return f"| {kind} | {rates[0]:.0f} | {rates[1]:.0f} | {ratios[0]} | {ratios[1]} |"


def spread(ratios: Sequence[float]) -> str:
    """Format median and range of the ratios."""
    return f"{statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"


if __name__ == "__main__":
    main()
