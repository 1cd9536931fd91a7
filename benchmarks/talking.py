"""Trains nothing: every rank prints the time, in epoch seconds, some times."""

import argparse
import time

import horovod.tensorflow.keras as hvd

parser = argparse.ArgumentParser()
parser.add_argument("--lines", type=int, required=True)
args = parser.parse_args()

hvd.init()
for _ in range(args.lines):
    # Not in step with whoever looks every half of a second.
    time.sleep(0.37)
    print(time.time(), flush=True)
