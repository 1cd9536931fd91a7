"""A script without training, in which every rank repeatedly prints the time in epoch seconds."""

import argparse
import time

import horovod.tensorflow.keras as hvd

parser = argparse.ArgumentParser()
parser.add_argument("--lines", type=int, required=True)
args = parser.parse_args()

hvd.init()
for _ in range(args.lines):
    # Out of phase with a reader that polls every half second.
    time.sleep(0.37)
    print(time.time(), flush=True)
