"""
Trains on real digits with `horovod_node.training`, as slowly as a test asks for; every rank writes down what it does.

One line of JSON for each step, in the folder above the model's: it outlives the process. A file `stands-still-at` there
holds the step after which this node's rank goes no further.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from horovod_node import training
from horovod_node.training import ring

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--step-seconds", type=float, default=0.05)
parser.add_argument("--commit-every", type=int)
parser.add_argument("--checkpoint-every", type=int)
parser.add_argument("--two-optimizers", type=int, default=0, help="the last layer has one of its own")
parser.add_argument("--slow-rank", type=int, default=-1, help="the rank whose data come slowly")
args = parser.parse_args()

training.start()
root = Path(os.environ["SM_MODEL_DIR"]).parent
journal = (root / f"journal-{os.getpid()}.jsonl").open("a", buffering=1)
mark = root / "stands-still-at"
stands_still_at = int(mark.read_text()) if mark.exists() else math.inf


class Journal(tf.keras.callbacks.Callback):
    epoch = 0

    def note(self, event: str, **facts: object) -> None:
        facts |= {"event": event, "at": time.time(), "rank": training.rank(), "size": training.size()}
        facts |= {"epoch": self.epoch, "step": int(self.model.optimizer.iterations.numpy())}
        journal.write(json.dumps(facts) + "\n")

    def on_train_begin(self, logs: object = None) -> None:
        self.note("begin")

    def on_train_end(self, logs: object = None) -> None:
        self.note("end")

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        self.note("epoch", logs={name: float(value) for name, value in logs.items()})

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        self.note("step")
        while int(self.model.optimizer.iterations.numpy()) >= stands_still_at:
            time.sleep(60)
        time.sleep(args.step_seconds * (3 if training.rank() == args.slow_rank else 1))


class TwoOptimizers(tf.keras.Sequential):
    """Trains its last layer with an optimizer that Keras knows nothing of."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            logits = self(x, training=True)
            loss = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True))
        gradients, split = tape.gradient(loss, self.trainable_variables), len(self.layers[-1].trainable_variables)
        pairs = list(zip(gradients, self.trainable_variables, strict=True))
        self.optimizer.apply_gradients(pairs[:-split])
        self.last_optimizer.apply_gradients(pairs[-split:])
        return {"loss": loss}


with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = digits["images"], digits["labels"]
is_test = np.arange(len(labels)) % 5 == 0

# Each process begins with other weights.
tf.keras.utils.set_random_seed(os.getpid())
model = (TwoOptimizers if args.two_optimizers else tf.keras.Sequential)(
    [
        tf.keras.layers.Input((8, 8)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(32, activation="relu"),
        tf.keras.layers.BatchNormalization(),
        tf.keras.layers.Dense(10),
    ]
)
optimizer = training.distributed(tf.keras.optimizers.Adam(0.002), scale_learning_rate="sqrt")
model.last_optimizer = training.distributed(tf.keras.optimizers.SGD(0.02, momentum=0.9))
model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
training.fit(
    model,
    images[~is_test],
    labels[~is_test],
    batch_size=16,
    epochs=args.epochs,
    validation_data=(images[is_test], labels[is_test]),
    callbacks=[Journal()],
    commit_every=args.commit_every,
    checkpoint_every=args.checkpoint_every,
    verbose=0,
)

weights = np.concatenate([np.asarray(values, "float64").reshape(-1) for values in model.get_weights()[:4]])
everyones = ring.gather(weights, name="proof")
training.save(model)
if training.rank() == 0:
    _, accuracy = model.evaluate(images[is_test], labels[is_test], verbose=0)
    facts = {
        "size": training.size(),
        "difference": float(np.abs(everyones - everyones[0]).max()),
        "steps": int(model.optimizer.iterations.numpy()),
        "accuracy": accuracy,
    }
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
