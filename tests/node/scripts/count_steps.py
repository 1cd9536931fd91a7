"""Trains nothing, and says so in steps; starts a process of its own, as data loaders do."""

import argparse
import os
import signal
import subprocess
import sys
import time

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1_000_000)
parser.add_argument("--end", choices=["well", "exit", "message", "vanish", "killed", "crash"], default="well")
args = parser.parse_args()

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for step in range(1, args.steps + 1):
    steps.report(step)
    time.sleep(0.05)

match args.end:
    case "exit":
        sys.exit(3)
    case "message":
        sys.exit("no data is left")
    case "vanish":
        print("the last line", flush=True)
        os._exit(9)
    case "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    case "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
