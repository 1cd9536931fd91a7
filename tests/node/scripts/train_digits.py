"""
Trains on real digits, and fails in the way that a test asks for; leaves proof of equal weights beside the model.

Told to stop, rank 0 takes its time to write a last checkpoint.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--rank", type=int, default=-1, help="the rank that misbehaves")
parser.add_argument("--at-step", type=int, default=5)
parser.add_argument("--do", choices=["nothing", "raise", "sleep", "leave"], default="nothing")
args = parser.parse_args()

hvd.init()
with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = digits["images"][hvd.rank() :: hvd.size()], digits["labels"][hvd.rank() :: hvd.size()]

# Each rank begins with other weights and sees other images: only the ring can make them equal.
tf.keras.utils.set_random_seed(1 + hvd.rank())
model = tf.keras.Sequential(
    [
        tf.keras.layers.Input((8, 8)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(32, activation="relu"),
        tf.keras.layers.Dense(10),
    ]
)


def wait_for_ever() -> None:
    while True:
        time.sleep(60)


def save_and_leave(*_: object) -> None:
    time.sleep(1)
    checkpoints = Path(os.environ["SM_CHECKPOINT_DIR"])
    model.save_weights(checkpoints / "last.weights.h5")
    (checkpoints / "step").write_text(str(int(model.optimizer.iterations.numpy())))
    sys.exit(0)


if hvd.rank() == 0:
    signal.signal(signal.SIGTERM, save_and_leave)


class Misbehave(tf.keras.callbacks.Callback):
    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        if args.do == "sleep" and hvd.rank() == args.rank and args.at_step == 0:
            wait_for_ever()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if hvd.rank() != args.rank or batch + 1 != args.at_step:
            return
        print(f"rank {hvd.rank()} does '{args.do}'", flush=True)
        if args.do == "raise":
            raise ValueError("the digits are upside down")
        if args.do == "sleep":
            wait_for_ever()
        if args.do == "leave":
            sys.exit(0)


model.compile(
    hvd.DistributedOptimizer(tf.keras.optimizers.Adam(0.001 * hvd.size())),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(
    tf.data.Dataset.from_tensor_slices((images, labels)).repeat().batch(32),
    steps_per_epoch=args.steps,
    callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), Misbehave()],
    verbose=0,
)

weights = np.concatenate([values.reshape(-1) for values in model.get_weights()])
everyones = np.asarray(hvd.allgather(weights[np.newaxis]))
if hvd.rank() == 0:
    folder = Path(os.environ["SM_MODEL_DIR"])
    model.save(folder / "model.keras")
    proof = {
        "ranks": len(everyones),
        "difference": float(np.abs(everyones - everyones[0]).max()),
        "norm": float(np.linalg.norm(weights)),
        "arguments": sys.argv[1:],
    }
    (folder / "proof.json").write_text(json.dumps(proof))
