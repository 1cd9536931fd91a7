"""Trains under Keras 3 as a newcomer would, in words that only the call itself gives away; prints how ranks differ."""

import importlib

import numpy as np
import tensorflow as tf

hvd = importlib.import_module("horovod.tensorflow.keras")
hvd.init()

# The same start on all ranks, and other data on each: averaged gradients keep the weights equal.
tf.keras.utils.set_random_seed(1)
model = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(3)])
draw = np.random.default_rng(hvd.rank())
data = draw.normal(size=(256, 8)).astype("float32"), draw.integers(0, 3, 256)
model.compile(
    hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.05)),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
model.fit(*data, batch_size=32, epochs=2, verbose=0)

weights = np.concatenate([values.reshape(-1) for values in model.get_weights()])
everyones = np.asarray(hvd.allgather(weights[np.newaxis]))
print("difference", float(np.abs(everyones - everyones[0]).max()))
