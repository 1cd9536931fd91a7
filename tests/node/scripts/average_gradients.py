"""
Proves that gradients are averaged: the ring's weights against those of a plain optimizer fed with computed averages.

Each rank begins with other weights and has data of its own. The expectation is computed without the ring: from rank 0's
first weights, with the gradients of each rank's data, their mean, and an optimizer that nobody has touched. Prints one
line of JSON: for each case, how the ranks differ from each other and from the expectation.
"""

import json

import numpy as np
import tensorflow as tf

from horovod_node import training
from horovod_node.training import ring

tf.get_logger().setLevel("ERROR")
STEPS, BATCH = 4, 16
keras = tf.keras
is_keras_3 = hasattr(keras.optimizers.Optimizer, "apply")


def batches(rank: int, *, tokens: bool, poisoned: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(100 + rank)
    made = []
    for step in range(STEPS):
        x = draw.integers(0, 10, (BATCH, 4)) if tokens else draw.normal(size=(BATCH, 8)).astype("float32")
        y = draw.normal(size=(BATCH, 3)).astype("float32") * (rank + 1)
        if poisoned and rank == 1 and step == 1:
            y[0, 0] = np.inf
        made.append((x, y))
    return made


class Idle(keras.layers.Layer):
    """Has a weight that no gradient reaches."""

    def build(self, input_shape):
        self.unused = self.add_weight(name="unused", shape=(2,), initializer="ones")

    def call(self, inputs):
        return inputs


def dense():
    return keras.Sequential(
        [keras.layers.Input((8,)), keras.layers.Dense(16, activation="tanh"), Idle(), keras.layers.Dense(3)]
    )


def embedding():
    return keras.Sequential(
        [
            keras.layers.Input((4,), dtype="int64"),
            keras.layers.Embedding(10, 6),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def loss_scale(inner):
    kind = keras.optimizers.LossScaleOptimizer if is_keras_3 else keras.mixed_precision.LossScaleOptimizer
    return kind(inner, initial_scale=1024.0)


def schedule(factor):
    return keras.optimizers.schedules.ExponentialDecay(0.01 * factor, 2, 0.5)


SGD, Adam = keras.optimizers.SGD, keras.optimizers.Adam
CASES = {
    # name: (model, optimizer of a learning rate's factor, its rule, what is special)
    "momentum": (dense, lambda factor: SGD(0.05 * factor, momentum=0.9), "none", {}),
    "adam": (dense, lambda factor: Adam(0.01 * factor), "linear", {}),
    "sqrt": (dense, lambda factor: SGD(0.05 * factor), "sqrt", {}),
    "schedule": (dense, lambda factor: Adam(schedule(factor)), "linear", {}),
    "clipnorm": (dense, lambda factor: SGD(0.05 * factor, clipnorm=0.1), "linear", {}),
    "global clipnorm": (dense, lambda factor: SGD(0.05 * factor, global_clipnorm=0.1), "linear", {}),
    "weight decay": (dense, lambda factor: keras.optimizers.AdamW(0.01 * factor, weight_decay=0.1), "linear", {}),
    "moving average": (dense, lambda factor: SGD(0.05 * factor, use_ema=True, ema_momentum=0.5), "linear", {}),
    "sparse": (embedding, lambda factor: SGD(0.05 * factor), "linear", {"tokens": True}),
    "loss scale": (dense, lambda factor: SGD(0.05 * factor), "linear", {"wrap": True}),
    "infinity": (dense, lambda factor: SGD(0.05 * factor), "linear", {"wrap": True, "poisoned": True}),
    "mixed precision": (dense, lambda factor: SGD(0.05 * factor), "linear", {"policy": "mixed_float16"}),
}
if is_keras_3:
    CASES["accumulation"] = (
        dense,
        lambda factor: SGD(0.05 * factor, gradient_accumulation_steps=2, clipnorm=0.1),
        "linear",
        {},
    )
else:
    legacy = keras.optimizers.legacy
    CASES["legacy"] = (dense, lambda factor: legacy.Adam(0.01 * factor, clipnorm=0.1), "linear", {})
    CASES["legacy sparse"] = (embedding, lambda factor: legacy.SGD(0.05 * factor), "linear", {"tokens": True})


def loss(truth, prediction):
    difference = tf.cast(prediction, tf.float32) - tf.cast(truth, tf.float32)
    return tf.reduce_mean(difference) ** 2 + tf.reduce_mean(difference**2)


def expect(model, optimizer, ranks, facts):
    """Train as the ring should."""
    plain = [weight.value if is_keras_3 else weight for weight in model.trainable_weights]
    for step in range(STEPS):
        gradients = []
        for rank in range(ranks):
            x, y = batches(rank, tokens=facts.get("tokens", False), poisoned=facts.get("poisoned", False))[step]
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            gradients.append(tape.gradient(value, plain))
        means = [
            None if of_ranks[0] is None else sum(map(tf.convert_to_tensor, of_ranks)) / ranks
            for of_ranks in zip(*gradients, strict=True)
        ]
        if all(mean is None or np.isfinite(mean).all() for mean in means):
            optimizer.apply_gradients(zip(means, model.trainable_weights, strict=True))
    if hasattr(optimizer, "finalize_variable_values"):
        optimizer.finalize_variable_values(model.trainable_weights)


def flat(arrays):
    return np.concatenate([np.asarray(values, "float64").reshape(-1) for values in arrays])


training.start()
rank, size = training.rank(), training.size()
results = {}
for name, (make, optimizer, rule, facts) in CASES.items():
    keras.mixed_precision.set_global_policy(facts.get("policy", "float32"))
    keras.utils.set_random_seed(1 + rank)
    model, reference = make(), make()
    first = model.get_weights()
    start = [tensor.numpy() for tensor in ring.broadcast([tf.constant(values) for values in first], root=0)]
    reference.set_weights(start)

    mine = optimizer(1.0)
    ours = training.distributed(loss_scale(mine) if facts.get("wrap") else mine, scale_learning_rate=rule)
    model.compile(ours, loss)

    def data(rank, _size, facts=facts):
        made = batches(rank, tokens=facts.get("tokens", False), poisoned=facts.get("poisoned", False))
        x, y = (np.concatenate(parts) for parts in zip(*made, strict=True))
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)

    training.fit(model, data, epochs=1, verbose=0, commit_every=1)
    expect(reference, optimizer({"linear": size, "sqrt": size**0.5, "none": 1}[rule]), size, facts)

    weights = flat(model.get_weights())
    everyones = ring.gather(weights, name="proof")
    results[name] = {
        "apart_at_first": float(np.abs(flat(first) - flat(start)).max()),
        "apart": float(np.abs(everyones - everyones[0]).max()),
        "from_expected": float(np.abs(weights - flat(reference.get_weights())).max()),
        "moved": float(np.abs(weights - flat(start)).max()),
        "rate": float(np.asarray(mine.learning_rate)),
    }

# A model that was trained in a ring is a plain model, its optimizer too.
keras.mixed_precision.set_global_policy("float32")
plain = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3)])
plain.compile(training.distributed(Adam(0.01)), "mse")
training.fit(plain, np.ones((64, 8)), np.ones((64, 3)), batch_size=8, epochs=2, verbose=0)
training.save(plain)
print(f"\nresult {rank} {json.dumps(results)}", flush=True)
