"""Tries what would train without averaging, in an elastic ring of one; prints what it is told."""

import json

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf
from two_optimizers import Gan, keras

from horovod_node import training

SGD = keras.optimizers.SGD
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
training.start()
x, y = np.ones((16, 4), "float32"), np.ones((16, 1), "float32")


def dense():
    return keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])


def not_distributed():
    model = dense()
    model.compile(SGD(0.1), "mse")
    training.fit(model, x, y, verbose=0)


def one_of_two():
    gan = Gan()
    gan.compile(training.distributed(SGD(0.1)), SGD(0.1))
    training.fit(gan, x, verbose=0)


def none_used():
    class ByHand(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, data):
            for variable in self.trainable_variables:
                variable.assign(variable * 0.9)
            return {}

    model = ByHand()
    model.compile(training.distributed(SGD(0.1)), "mse")
    training.fit(model, x, y, verbose=0)


def compiled_by_xla():
    model = dense()
    model.compile(training.distributed(SGD(0.1)), "mse", jit_compile=True)
    model.fit(x, y, verbose=0)


def several_devices():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = dense()
        model.compile(training.distributed(SGD(0.1)), "mse", jit_compile=False)
    model.fit(x, y, verbose=0)


def horovods_own():
    training.distributed(hvd.DistributedOptimizer(SGD(0.1)))


def twice():
    training.distributed(training.distributed(SGD(0.1)))


for trial in (not_distributed, one_of_two, none_used, compiled_by_xla, several_devices, horovods_own, twice):
    try:
        trial()
    except Exception as error:
        # TensorFlow puts its account of where before the words.
        found = [type(error).__name__, str(error).strip().splitlines()[-1].strip()]
    else:
        found = ["trained", ""]
    print(f"\nresult {trial.__name__} {json.dumps(found)}", flush=True)
