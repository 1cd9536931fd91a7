"""
Trains what is no plain model with one optimizer, on two ranks; prints how far their weights are from each other.

Each rank begins with other weights and has data, and words, of its own.
"""

import json
import sys

import numpy as np
import tensorflow as tf
from two_optimizers import Gan, adapted_model, keras

from horovod_node import training
from horovod_node.training import ring
from horovod_node.training_base.position import Position

fits = sys.modules["horovod_node.training.fit"]
tf.get_logger().setLevel("ERROR")
training.start()
rank = training.rank()
keras.utils.set_random_seed(1 + rank)
draw = np.random.default_rng(rank)
x = draw.normal(size=(64, 4)).astype("float32")
y = x.sum(axis=1, keepdims=True)
SGD = keras.optimizers.SGD
results = {}


def dense():
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)])


def flat(arrays):
    return np.concatenate([np.asarray(values, "float64").reshape(-1) for values in arrays])


def note(name, values, begun, **facts):
    """Compare the ranks, at the end and at the beginning."""
    everyones = ring.gather(values, name="proof")
    firsts = ring.gather(begun, name="proof")
    results[name] = {
        "apart_at_first": float(np.abs(firsts - firsts[0]).max()),
        "apart": float(np.abs(everyones - everyones[0]).max()),
        "moved": float(np.abs(values - firsts[0]).max()),
        **facts,
    }


def variables(optimizer):
    return [np.asarray(variable.numpy()) for variable in optimizer.variables]


# A GAN: two optimizers, whose gradients are on their way at the same time.
gan = Gan()
gan.compile(training.distributed(SGD(0.05, momentum=0.9)), training.distributed(keras.optimizers.Adam(0.01)))
begun = flat(gan.get_weights())
training.fit(gan, x, batch_size=8, epochs=2, verbose=0)
trained = [gan.discriminator_optimizer, gan.generator_optimizer]
note(
    "gan",
    flat(gan.get_weights()),
    begun,
    steps=[int(optimizer.iterations.numpy()) for optimizer in trained],
    optimizers_apart=float(
        np.ptp(ring.gather(flat(variables(trained[0]) + variables(trained[1])), name="proof"), axis=0).max()
    ),
)


def expected(start, steps):
    """Train as the ring should: rank 0's beginning, plain optimizers, and means of what all ranks' data lead to."""
    plain = Gan()
    plain.set_weights(start)
    parts = {
        plain.discriminator: SGD(0.05 * training.size(), momentum=0.9),
        plain.generator: SGD(0.05 * training.size()),
    }
    data = [np.random.default_rng(each).normal(size=(64, 4)).astype("float32") for each in range(training.size())]
    for step in range(steps):
        gradients = [plain.gradients_of(tf.constant(each[8 * step : 8 * step + 8])) for each in data]
        for number, (part, optimizer) in enumerate(parts.items()):
            of_ranks = zip(*(of_rank[number] for of_rank in gradients), strict=True)
            means = [sum(each) / training.size() for each in of_ranks]
            optimizer.apply_gradients(zip(means, part.trainable_variables, strict=True))
    return flat(plain.get_weights())


# The same in words of one's own: eager, in a function, and in Keras's own fit.
for name, wrap in (("eager loop", lambda step: step), ("function", tf.function)):
    gan = Gan()
    gan.compile(training.distributed(SGD(0.05, momentum=0.9)), training.distributed(SGD(0.05)))
    begun = flat(gan.get_weights())
    start = [values.numpy() for values in ring.broadcast([tf.constant(each) for each in gan.get_weights()], root=0)]
    step = wrap(gan.train_step)
    for number in range(4):
        step(tf.constant(x[8 * number : 8 * number + 8]))
    weights = flat(gan.get_weights())
    note(name, weights, begun, from_expected=float(np.abs(weights - expected(start, 4)).max()))
model = dense()
model.compile(training.distributed(SGD(0.01)), "mse", jit_compile=False)
begun = flat(model.get_weights())
model.fit(x, y, batch_size=8, verbose=0)
note("keras's fit", flat(model.get_weights()), begun)

# Traced before the optimizer was distributed, when each rank trained alone.
model = dense()
model.compile(SGD(0.01), "mse", jit_compile=False)
model.fit(x, y, batch_size=8, verbose=0)
begun = flat(model.get_weights())
training.distributed(model.optimizer)
training.fit(model, x, y, batch_size=8, verbose=0)
note("compiled before", flat(model.get_weights()), begun)

# Layers that each rank has adapted to words and numbers of its own.
words = [["a", "b", "c", "d"], ["w", "w", "x", "y"]][rank % 2]
model = adapted_model(words, x[:, 0] + 10 * rank)
model.compile(training.distributed(SGD(1e-6)), ["mse", None])
probe = {
    "text": tf.constant([["a"], ["x"], ["c"]]),
    "whole": tf.constant([[1], [2], [3]], "int64"),
    "number": tf.constant([[0.0], [9.0], [1.0]]),
}
feed = {name: tf.repeat(values[:1], 16, axis=0).numpy() for name, values in probe.items()}
begun = flat(model(probe))
training.fit(model, tf.data.Dataset.from_tensor_slices((feed, (y[:16], y[:16]))).batch(4), verbose=0)
note("adapted layers", flat(model(probe)), begun)

# A model that rank 1 has missed, as a rank does that comes late: it gets what the others have trained.
first, second = dense(), dense()
first.compile(training.distributed(SGD(0.05)), "mse")
second.compile(training.distributed(SGD(0.05)), "mse")
begun = flat(first.get_weights())
if rank == 0:
    fits._models.number(first)
    fits._last = Position(fit=fits._last.fit + 1, step=fits._last.step + 8)
else:
    training.fit(first, x, y, batch_size=8, verbose=0)
caught_up = flat(first.get_weights())
training.fit(second, x, y, batch_size=8, verbose=0)
note("missed", caught_up, begun)

print(f"\nresult {rank} {json.dumps(results)}", flush=True)
