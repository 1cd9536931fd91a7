"""Leaves in every folder of a run what belongs there, prints, and makes steps for --seconds."""

import argparse
import os
import time
from pathlib import Path

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, required=True)
arguments = parser.parse_args()

model = Path(os.environ["SM_MODEL_DIR"])
checkpoints, tensorboard = Path(os.environ["SM_CHECKPOINT_DIR"]), Path(os.environ["SM_TENSORBOARD_DIR"])
until, step = time.monotonic() + arguments.seconds, 0
while time.monotonic() < until:
    step += 1
    steps.report(step)
    if step % 50 == 1:
        print(f"step {step}", flush=True)
        # A checkpoint takes the place of the one before, in the bucket, too.
        for path in checkpoints.glob("step-*"):
            path.unlink()
        (checkpoints / f"step-{step}").write_text(str(step))
        (tensorboard / "events").write_text(str(step))
    time.sleep(0.1)
(model / "model.txt").write_text(f"{step} steps")
