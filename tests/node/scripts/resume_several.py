"""Trains one model, then a GAN, alone or in a ring; dies at a step of either if a test asks for it."""

import argparse
import json
import os
import signal

import numpy as np
import tensorflow as tf
from two_optimizers import Gan, adapted_model, keras

from horovod_node import training

parser = argparse.ArgumentParser()
parser.add_argument("--die-at-step", type=int, default=-1)
parser.add_argument("--words", default="abcd", help="what the layers of this process are adapted to")
args = parser.parse_args()

training.start(seed=7)
draw = np.random.default_rng(0)
x = draw.normal(size=(160, 4)).astype("float32")


class Misbehave(keras.callbacks.Callback):
    taken = 0

    def on_train_batch_end(self, batch, logs=None):
        Misbehave.taken += 1
        if Misbehave.taken == args.die_at_step:
            os.kill(os.getpid(), signal.SIGKILL)


def flat(arrays):
    return [float(value) for array in arrays for value in np.asarray(array, "float64").reshape(-1)]


# The first model is over when the second begins, and the script goes on to use it.
model = adapted_model(list(args.words), [float(len(args.words)), 1.0, 2.0])
model.compile(training.distributed(keras.optimizers.SGD(0.001)), ["mse", None])
probe = {
    "text": tf.constant([["a"], ["d"]] * 20),
    "whole": tf.constant([[1], [2]] * 20, "int64"),
    "number": tf.constant([[0.0], [9.0]] * 20),
}
features = {name: values.numpy() for name, values in probe.items()}
data = tf.data.Dataset.from_tensor_slices((features, (x[:40, :1], x[:40, :1]))).batch(4)
options = {"checkpoint_every": 5, "verbose": 0, "callbacks": [Misbehave()]}
training.fit(model, data, epochs=2, **options)
judged = flat(model.predict(probe, verbose=0)[0][:2])

gan = Gan()
gan.compile(
    training.distributed(keras.optimizers.SGD(0.05, momentum=0.9)), training.distributed(keras.optimizers.Adam(0.01))
)
training.fit(gan, x, batch_size=8, epochs=2, **options)
optimizers = [gan.discriminator_optimizer, gan.generator_optimizer]
facts = {
    "taken": Misbehave.taken,
    "judged": judged,
    "weights": flat(gan.get_weights()),
    "optimizers": [flat(variable.numpy() for variable in optimizer.variables) for optimizer in optimizers],
}
print(json.dumps(facts))
