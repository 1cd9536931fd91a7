"""A short training, in which each rank writes the times of its first step and of its end to the folder `--marks`."""

import argparse
import json
import os
import time
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--marks", required=True)
args = parser.parse_args()

hvd.init()
marks = {}


class Mark(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        marks.setdefault("first_step", time.time())


model = tf.keras.Sequential([tf.keras.layers.Input((64,)), tf.keras.layers.Dense(10)])
model.compile(hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.01)), "mse")
model.fit(np.zeros((640, 64)), np.zeros((640, 10)), batch_size=32, epochs=2, verbose=0, callbacks=[Mark()])
marks["end"] = time.time()
(Path(args.marks) / f"{hvd.rank()}.json").write_text(json.dumps(marks))
if hvd.rank() == 0 and "SM_MODEL_DIR" in os.environ:
    model.save(Path(os.environ["SM_MODEL_DIR"]) / "model.keras")
