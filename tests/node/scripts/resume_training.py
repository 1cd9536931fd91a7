"""Trains one model in two calls of fit, alone or in a ring; dies or waits at a step if a test asks for it."""

import argparse
import json
import os
import signal
from pathlib import Path

import numpy as np
import tensorflow as tf

from horovod_node import training

parser = argparse.ArgumentParser()
parser.add_argument("--die-at-step", type=int, default=-1)
parser.add_argument("--wait-at-step", type=int, default=-1, help="until a signal comes")
parser.add_argument("--units", type=int, default=16)
args = parser.parse_args()

training.start(seed=7)
folder = Path(os.environ["SM_MODEL_DIR"])
draw = np.random.default_rng(0)
x = draw.normal(size=(400, 6)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int64")


class Misbehave(tf.keras.callbacks.Callback):
    taken = 0

    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def on_train_batch_end(self, batch, logs=None):
        Misbehave.taken += 1
        step = int(self.model.optimizer.iterations.numpy()) + self.offset
        if step == args.die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == args.wait_at_step:
            (folder / "waiting").touch()
            signal.pause()


model = tf.keras.Sequential(
    [tf.keras.layers.Input((6,)), tf.keras.layers.Dense(args.units, activation="relu"), tf.keras.layers.Dense(2)]
)
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
epochs = []
# First with one optimizer, then more carefully with another.
for offset, rate in ((0, 0.05), (40, 0.005)):
    model.compile(training.distributed(tf.keras.optimizers.SGD(rate, momentum=0.9)), loss)
    history = training.fit(
        model, x, y, batch_size=20, epochs=2, checkpoint_every=5, verbose=0, callbacks=[Misbehave(offset)]
    )
    epochs.append(len(history.history.get("loss", [])))
weights = np.concatenate([values.reshape(-1) for values in model.get_weights()])
print(json.dumps({"taken": Misbehave.taken, "epochs": epochs, "weights": weights.tolist()}))
