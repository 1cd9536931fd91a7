"""Trains until somebody ends it, printing its steps."""

import time

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

hvd.init()
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
model.compile(optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.01)), loss="mse")


class Slow(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)


model.fit(np.zeros((400, 4)), np.zeros(400), batch_size=4, epochs=1000, verbose=0, callbacks=[Slow()])
