"""Trains until somebody ends it; --rank stands still after --step, alive, inside a callback."""

import argparse
import time

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--rank", type=int, default=-1)
parser.add_argument("--step", type=int, default=0)
arguments = parser.parse_args()

hvd.init()
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
model.compile(optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.01)), loss="mse")


class Hang(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        while hvd.rank() == arguments.rank and batch + 1 >= arguments.step:
            time.sleep(3600)
        time.sleep(0.05)


model.fit(np.zeros((4000, 4)), np.zeros(4000), batch_size=4, epochs=100, verbose=0, callbacks=[Hang()])
