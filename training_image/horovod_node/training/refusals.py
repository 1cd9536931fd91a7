"""Refuses combinations in which ranks would train alone, or fail with an unclear error."""

from __future__ import annotations

import os
import sys
from typing import Any

import tensorflow as tf

_KERAS_3 = "keras.src.optimizers.base_optimizer"


def check_class(optimizer: Any) -> None:
    """
    Check the class of an optimizer.

    Raises:
        TypeError: If it is Horovod's `DistributedOptimizer`.
    """
    if any(base.__module__.startswith("horovod.") for base in type(optimizer).__mro__):
        raise TypeError(
            "'optimizer' is hvd.DistributedOptimizer's already: give training.distributed(...) the plain one"
        )


def check_backend(optimizer: Any) -> None:
    """
    Check the backend of an optimizer.

    Raises:
        RuntimeError: If the backend is not TensorFlow.
    """
    keras = sys.modules.get("keras")
    is_keras_3 = any(base.__module__ == _KERAS_3 for base in type(optimizer).__mro__)
    backend = keras.backend.backend() if is_keras_3 and keras is not None else "tensorflow"
    if backend != "tensorflow":
        raise RuntimeError(
            f"Keras 3 computes with '{backend}' here, whose gradients horovod_node.training cannot average: set "
            "KERAS_BACKEND=tensorflow before Keras is imported, or use horovod_node.torch_training for PyTorch"
        )


def check_step() -> None:
    """
    Check the context in which a step is about to be taken or traced.

    Raises:
        RuntimeError: If Horovod cannot average there.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas > 1:
        raise RuntimeError(
            f"tf.distribute trains on {replicas} devices of this process, and Horovod on one of each: train without a "
            "strategy, and call training.start() first, which gives each rank a GPU of its own"
        )
    if _is_compiled_by_xla():
        raise RuntimeError(
            "XLA cannot compile Horovod's operations: say jit_compile=False to compile() or tf.function(), or train "
            "with training.fit(), which does"
        )


def _is_compiled_by_xla() -> bool:
    """Look for `jit_compile=True` in the functions that are being traced; TensorFlow has no API for it."""
    if tf.executing_eagerly() or os.environ.get("HOROVOD_ENABLE_XLA_OPS") == "1":
        return False
    frame, kind = sys._getframe(), type(tf.function(lambda: None))
    while frame is not None:
        function = frame.f_locals.get("self")
        if isinstance(function, kind) and getattr(function, "_jit_compile", None):
            return True
        frame = frame.f_back  # type: ignore[assignment]  # None at the outermost
    return False
