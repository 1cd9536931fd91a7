"""Trains in every way that Keras knows, and prints what the step counter saw after each."""

import json
import os
import sys
from pathlib import Path

from horovod_node.rank_process import preflight
from horovod_node.rank_process.import_hooks import AfterImport
from horovod_node.rank_process.step_counter import StepCounter

counter = StepCounter(Path(sys.argv[1]))
AfterImport({**counter.hooks(), **preflight.hooks()}).install()
untouched = "tensorflow" not in sys.modules and "keras" not in sys.modules

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
import horovod.tensorflow.keras as hvd  # noqa: E402 - the hooks come before the imports
import tensorflow as tf  # noqa: E402

hvd.init()
x, y = tf.ones((12, 2)), tf.ones((12, 1))


def train(optimizer, how):
    model = tf.keras.Sequential([tf.keras.layers.Input((2,)), tf.keras.layers.Dense(1)])
    if how == "fit":
        model.compile(hvd.DistributedOptimizer(optimizer), "mse")
        model.fit(x, y, batch_size=4, verbose=0)
        return model

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    if how == "function":
        optimizer.build(model.trainable_variables)
        step = tf.function(step)
    for _ in range(3):
        step()
    return model


seen = {"untouched": untouched}
for name, optimizer, how in (
    ("fit", tf.keras.optimizers.Adam(), "fit"),
    ("function", tf.keras.optimizers.SGD(), "function"),
    ("eager", tf.keras.optimizers.Adam(), "eager"),
    ("legacy fit", tf.keras.optimizers.legacy.Adam(), "fit"),
    ("legacy eager", tf.keras.optimizers.legacy.SGD(), "eager"),
):
    before = counter.relay()
    model = train(optimizer, how)
    after = counter.relay()
    seen[name] = {
        "iterations": int((model.optimizer if how == "fit" else optimizer).iterations.numpy()),
        "step": after.step,
        "advanced": after.advances > before.advances,
        "still": counter.relay() == after,
    }
print(json.dumps(seen))
