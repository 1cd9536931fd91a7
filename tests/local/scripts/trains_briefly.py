"""Takes a few steps and leaves a file as its model; says how far its ranks' weights are apart."""

import json
import os
import sys
from pathlib import Path

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

hvd.init()
tf.keras.utils.set_random_seed(hvd.rank())
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
model.compile(optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.01)), loss="mse")
data = np.random.default_rng(hvd.rank()).normal(size=(64, 4))
model.fit(
    data,
    data.sum(axis=1),
    batch_size=8,
    epochs=2,
    verbose=0,
    callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0)],
)
print(f"rank {hvd.rank()} of {hvd.size()} has trained")
weights = np.concatenate([weight.reshape(-1) for weight in model.get_weights()])
everyones = np.asarray(hvd.allgather(weights[None, :]))
if hvd.rank() == 0:
    difference = float(np.abs(everyones - everyones[0]).max())
    facts = {"difference": difference, "ranks": hvd.size(), "arguments": sys.argv[1:]}
    (Path(os.environ["SM_MODEL_DIR"]) / "facts.json").write_text(json.dumps(facts))
