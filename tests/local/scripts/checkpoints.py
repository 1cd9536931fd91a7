"""Makes steps, for --seconds, and leaves a model; told to stop before, rank 0 leaves a checkpoint."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=3600)
arguments = parser.parse_args()

rank = int(os.environ["HOROVOD_RANK"])
model = Path(os.environ["SM_MODEL_DIR"])
step = 0


def leave_a_checkpoint(*_):
    if rank == 0:
        Path(os.environ["SM_CHECKPOINT_DIR"], "step").write_text(str(step))
    sys.exit(1)


signal.signal(signal.SIGTERM, leave_a_checkpoint)
until = time.monotonic() + arguments.seconds
while time.monotonic() < until:
    step += 1
    steps.report(step)
    time.sleep(0.1)
if rank == 0:
    (model / "model.txt").write_text(f"{step} steps")
