"""
The helpers for Keras scripts, which train on a ring whose nodes may join and leave. They work on one machine, too.

    from horovod_node import training

    training.start()
    optimizer = training.distributed(tf.keras.optimizers.Adam(1e-3))
    model.compile(optimizer, ...)
    training.fit(model, images, labels, epochs=10)
    training.save(model)

They work with Keras 2 (TensorFlow 2.15, tf-keras) and with Keras 3, whose gradients Horovod itself does not average.
Scripts may also use Horovod without them.
"""

from horovod_node.training.fit import fit
from horovod_node.training.optimizer import distributed
from horovod_node.training.ring import rank, size, start
from horovod_node.training.save import save

__all__ = ["distributed", "fit", "rank", "save", "size", "start"]
