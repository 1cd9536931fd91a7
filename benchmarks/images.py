"""Trains a small network on random images; rank 0 writes images per second and processor time to `--result`."""

import argparse
import json
import os
import time
from pathlib import Path

import horovod.tensorflow as hvd
import horovod.tensorflow.keras as hvd_keras
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--kind", choices=["fit", "loop", "helper"], required=True)
parser.add_argument("--result", required=True)
parser.add_argument("--steps", type=int, default=300, help="counted steps, after a tenth as many to warm up")
parser.add_argument("--batch", type=int, default=32)
args = parser.parse_args()
warm_up = args.steps // 10
times = []

if args.kind == "helper":
    from horovod_node import training

    training.start()
else:
    hvd.init()
count = (warm_up + args.steps) * args.batch
images = np.random.default_rng(0).random((count, 28, 28, 1), dtype="float32")
labels = np.arange(count) % 10
model = tf.keras.Sequential(
    [
        tf.keras.layers.Input((28, 28, 1)),
        tf.keras.layers.Conv2D(16, 3, activation="relu"),
        tf.keras.layers.MaxPooling2D(),
        tf.keras.layers.Conv2D(32, 3, activation="relu"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(64, activation="relu"),
        tf.keras.layers.Dense(10),
    ]
)
loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = tf.keras.optimizers.SGD(0.01)


class Watch(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        times.append((time.perf_counter(), time.process_time()))


if args.kind == "fit":
    model.compile(hvd_keras.DistributedOptimizer(optimizer), loss)
    model.fit(images, labels, batch_size=args.batch, verbose=0, callbacks=[Watch()])
elif args.kind == "helper":
    model.compile(training.distributed(optimizer), loss)
    # The helper shards the data, so each rank trains as many steps as with `fit`.
    whole = [np.concatenate([part] * training.size()) for part in (images, labels)]
    training.fit(model, *whole, batch_size=args.batch, verbose=0, callbacks=[Watch()])
else:

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        tape = hvd.DistributedGradientTape(tape)
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))  # noqa: B905 - TensorFlow's `zip` has no `strict`

    for x, y in tf.data.Dataset.from_tensor_slices((images, labels)).batch(args.batch):
        train(x, y)
        times.append((time.perf_counter(), time.process_time()))

if hvd.rank() == 0:
    (began, used), (ended, used_then) = times[warm_up - 1], times[warm_up + args.steps - 1]
    images = args.steps * args.batch
    measured = {"rate": images * hvd.size() / (ended - began), "processor": (used_then - used) / images}
    Path(args.result).write_text(json.dumps(measured))
    if "SM_MODEL_DIR" in os.environ:
        model.save(Path(os.environ["SM_MODEL_DIR"]) / "model.keras")
