"""
Learns handwritten digits with the training helper, slowly enough to be disturbed, and tells how well it did.

Every rank writes down each step that it takes: a line of JSON with the time, the step, and the ring's size.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

from horovod_node import training

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--step-seconds", type=float, default=0.1)
parser.add_argument("--commit-every", type=int, default=5)
parser.add_argument("--checkpoint-every", type=int, default=10)
args = parser.parse_args()

training.start()
digits = load_digits()
images, labels = (digits.images / 16)[..., np.newaxis].astype("float32"), digits.target
is_test = np.arange(len(labels)) % 5 == 0
tf.keras.utils.set_random_seed(3)
model = tf.keras.Sequential(
    [
        tf.keras.layers.Input((8, 8, 1)),
        tf.keras.layers.Conv2D(16, 3, activation="relu"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(10),
    ]
)
model.compile(
    training.distributed(tf.keras.optimizers.Adam(0.001)),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
journal = (Path(os.environ["SM_MODEL_DIR"]).parent / f"journal-{os.getpid()}.jsonl").open("a", buffering=1)


class Journal(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        journal.write(json.dumps({"at": time.time(), "size": training.size(), "rank": training.rank()}) + "\n")
        time.sleep(args.step_seconds)


training.fit(
    model,
    images[~is_test],
    labels[~is_test],
    batch_size=32,
    epochs=args.epochs,
    verbose=0,
    callbacks=[Journal()],
    commit_every=args.commit_every,
    checkpoint_every=args.checkpoint_every,
)
if training.rank() == 0:
    _, accuracy = model.evaluate(images[is_test], labels[is_test], verbose=0)
    facts = {"accuracy": float(accuracy), "size": training.size()}
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
training.save(model)
