"""Learns handwritten digits on every GPU of the ring; runs unchanged in SageMaker's script mode."""

import argparse
import json
import os
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--batch-size", type=int, default=32, help="images per rank and step")
parser.add_argument("--learning-rate", type=float, default=0.001, help="for one rank; multiplied by the ring's size")
args = parser.parse_args()

# One process per GPU.
hvd.init()
gpus = tf.config.list_physical_devices("GPU")
if gpus:
    tf.config.set_visible_devices(gpus[hvd.local_rank()], "GPU")

# Every fifth image is for the test; of the others, each rank trains on its own share.
with np.load(Path(os.environ["SM_CHANNEL_TRAIN"]) / "digits.npz") as digits:
    images, labels = digits["images"][..., np.newaxis], digits["labels"]
is_test = np.arange(len(labels)) % 5 == 0
test = (images[is_test], labels[is_test])
share = slice(hvd.rank(), None, hvd.size())
train = tf.data.Dataset.from_tensor_slices((images[~is_test][share], labels[~is_test][share]))

# All ranks must take the same number of steps: the smallest share decides.
steps = max(1, (~is_test).sum() // hvd.size() // args.batch_size)
train = train.shuffle(len(labels), seed=hvd.rank()).repeat().batch(args.batch_size)

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
# More ranks make a larger batch, which allows a larger learning rate.
optimizer = hvd.DistributedOptimizer(tf.keras.optimizers.Adam(args.learning_rate * hvd.size()))
model.compile(optimizer, tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
model.fit(
    train,
    steps_per_epoch=steps,
    epochs=args.epochs,
    callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), hvd.callbacks.MetricAverageCallback()],
    verbose=2 if hvd.rank() == 0 else 0,
)

if hvd.rank() == 0:
    loss, accuracy = model.evaluate(*test, verbose=0)
    print(f"test accuracy {accuracy:.4f} on {len(test[1])} images")
    folder = Path(os.environ["SM_MODEL_DIR"])
    model.save(folder / "model.keras")
    (folder / "metrics.json").write_text(json.dumps({"accuracy": accuracy, "loss": loss}))
