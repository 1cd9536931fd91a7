"""Trains nothing, and says so in steps; starts a process of its own, as data loaders do."""

import argparse
import subprocess
import sys
import time

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1_000_000)
args = parser.parse_args()

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for step in range(1, args.steps + 1):
    steps.report(step)
    time.sleep(0.05)
