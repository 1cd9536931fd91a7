"""Trains a model of a given size with the training helper; every rank records the time of each step."""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from horovod_node import training

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, required=True, help="steps of a ring with one rank")
parser.add_argument("--width", type=int, default=16, help="units of each of two dense layers")
parser.add_argument("--step-seconds", type=float, default=0.0, help="pause after each step, in seconds")
parser.add_argument("--commit-every", type=int, default=0, help="0: the helper's default")
parser.add_argument("--checkpoint-every", type=int, default=0, help="0: the helper's default")
args = parser.parse_args()

training.start()
model = tf.keras.Sequential(
    [tf.keras.layers.Input((64,)), tf.keras.layers.Dense(args.width), tf.keras.layers.Dense(args.width)]
)
model.compile(training.distributed(tf.keras.optimizers.Adam(1e-4)), "mse")
marks = (Path(os.environ["SM_MODEL_DIR"]).parent / f"marks-{os.getpid()}.jsonl").open("a", buffering=1)


class Mark(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        marks.write(json.dumps([time.time(), training.size()]) + "\n")
        time.sleep(args.step_seconds)


training.fit(
    model,
    np.zeros((32 * args.steps, 64), dtype="float32"),
    np.zeros((32 * args.steps, args.width), dtype="float32"),
    batch_size=32,
    verbose=0,
    callbacks=[Mark()],
    commit_every=args.commit_every or None,
    checkpoint_every=args.checkpoint_every or None,
)
training.save(model)
