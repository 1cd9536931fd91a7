"""Trains nothing, and says so in steps; starts a process of its own, as data loaders do."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from horovod_node import steps

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1_000_000)
ENDS = ("well", "exit", "told", "usage", "message", "garbled", "vanish", "killed", "crash")
parser.add_argument("--end", choices=ENDS, default="well")
parser.add_argument("--deaf", type=bool, help="takes no notice of SIGTERM")
parser.add_argument("--checkpoint", type=bool, help="leaves one after each step")
parser.add_argument("--model-bytes", type=int, default=0, help="size of a model of zeros")
args = parser.parse_args()
model = Path(os.environ["SM_MODEL_DIR"])
output = Path(os.environ["SM_OUTPUT_DIR"])

if args.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("counting from 1", flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
for step in range(1, args.steps + 1):
    steps.report(step)
    if args.checkpoint:
        Path(os.environ["SM_CHECKPOINT_DIR"], "step").write_text(str(step))
    time.sleep(0.05)

if args.model_bytes:
    (model / "zeros").touch()
    os.truncate(model / "zeros", args.model_bytes)

match args.end:
    case "exit":
        print("the last line")
        sys.exit(3)
    case "told":
        (output / "failure").write_text("the labels are of 2019")
        sys.exit(4)
    case "usage":
        parser.parse_args(["--epochs", "3"])
    case "garbled":
        shutil.rmtree(output)
        raise ValueError(os.fsdecode(b"no label for caf\xe9.jpg"))
    case "message":
        sys.exit("no data is left")
    case "vanish":
        print("the last line", flush=True)
        os._exit(9)
    case "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    case "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
