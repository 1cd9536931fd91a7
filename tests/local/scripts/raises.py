"""Trains a moment, then rank 1 meets a bug."""

import horovod.tensorflow.keras as hvd
import numpy as np
import tensorflow as tf

hvd.init()
model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
model.compile(optimizer=hvd.DistributedOptimizer(tf.keras.optimizers.SGD(0.01)), loss="mse")


class Bug(tf.keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5 and hvd.rank() == 1:
            raise ZeroDivisionError("the loss of rank 1 is not a number")


model.fit(np.zeros((400, 4)), np.zeros(400), batch_size=4, epochs=50, verbose=0, callbacks=[Bug()])
