"""
Tells what it was restored from, and leaves --note in a checkpoint and in a model.

If nothing was restored it goes on for --seconds after the checkpoint.
"""

import argparse
import os
import time
from pathlib import Path

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--note", required=True)
parser.add_argument("--seconds", type=float, default=0)
arguments = parser.parse_args()

model = Path(os.environ["SM_MODEL_DIR"])
checkpoints = Path(os.environ["SM_CHECKPOINT_DIR"])
restored = sorted(f"{path.name}: {path.read_text()}" for path in checkpoints.rglob("*") if path.is_file())
for step in range(1, 21):
    steps.report(step)
    time.sleep(0.1)
(checkpoints / "note").write_text(arguments.note)
until = time.monotonic() + (0 if restored else arguments.seconds)
while time.monotonic() < until:
    step += 1
    steps.report(step)
    time.sleep(0.1)
(model / "note").write_text(arguments.note)
(model / "restored").write_text("\n".join(restored))
