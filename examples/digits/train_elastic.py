"""Learns handwritten digits."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from horovod_node import training

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--learning-rate", type=float, default=0.001)
args = parser.parse_args()

training.start()
# Every fifth image is for the test.
with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = digits["images"][..., np.newaxis], digits["labels"]
is_test = np.arange(len(labels)) % 5 == 0

model = tf.keras.Sequential(
    [
        tf.keras.layers.Input((8, 8, 1)),
        tf.keras.layers.Conv2D(32, 3, activation="relu"),
        tf.keras.layers.Conv2D(64, 3, activation="relu"),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dense(10),
    ]
)
optimizer = training.distributed(tf.keras.optimizers.Adam(args.learning_rate))
model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
training.fit(model, images[~is_test], labels[~is_test], batch_size=args.batch_size, epochs=args.epochs, verbose=2)

loss, accuracy = model.evaluate(images[is_test], labels[is_test], verbose=0)
print(f"test accuracy {accuracy:.4f}")
folder = Path(os.environ["SM_MODEL_DIR"])
(folder / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": loss}))
training.save(model)
