"""A plain Horovod script that traces one function twice: first without the averaging, then with it."""

from __future__ import annotations

import json

import horovod.tensorflow as hvd
import tensorflow as tf

hvd.init()
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(2)])
optimizer = tf.keras.optimizers.SGD(0.1)


@tf.function
def step(inputs: tf.Tensor, targets: tf.Tensor, *, allreduce: bool = True) -> tf.Tensor:
    """Take a step; the first one makes the optimizer's variables and needs no other rank."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(inputs) - targets))
    averaging = hvd.DistributedGradientTape(tape) if allreduce else tape
    gradients = averaging.gradient(loss, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
    return loss


inputs, targets = tf.ones((8, 4)), tf.zeros((8, 2))
step(inputs, targets, allreduce=False)
losses = [float(step(inputs, targets)) for _ in range(3)]
graph = step.get_concrete_function(inputs, targets).graph
operations = sorted(operation.type for operation in graph.get_operations())
print(json.dumps({"operations": operations, "variables": len(graph.variables), "falls": losses[-1] < losses[0]}))
