"""
Makes steps without TensorFlow or Horovod, as fast as a test of the world around a training needs them.

--seconds: how long it trains. --hang-rank, --hang-step: a rank that stands still from that step on, alive.
"""

import argparse
import os
import pathlib
import time

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=3600)
parser.add_argument("--hang-rank", type=int, default=-1)
parser.add_argument("--hang-step", type=int, default=10)
arguments = parser.parse_args()

rank = int(os.environ["HOROVOD_RANK"])
until = time.monotonic() + arguments.seconds
step = 0
while time.monotonic() < until:
    step += 1
    steps.report(step)
    while rank == arguments.hang_rank and step >= arguments.hang_step:
        time.sleep(60)
    time.sleep(0.1)
if rank == 0:
    (pathlib.Path(os.environ["SM_MODEL_DIR"]) / "model.txt").write_text(f"{step} steps")
