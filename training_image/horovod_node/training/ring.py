"""The ring of a Keras training: Horovod's, or a single process without Horovod."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from horovod_node.training_base.horovod_ring import HorovodRing

try:
    import horovod.tensorflow as hvd
except ImportError:  # a laptop
    if "HOROVOD_RANK" in os.environ:
        raise
    hvd = None


_ring: Final = HorovodRing(hvd)
started = _ring.started
rank = _ring.rank
size = _ring.size
is_elastic, is_ring, form_anew = _ring.is_elastic, _ring.is_ring, _ring.form_anew


def start(*, seed: int | None = None) -> None:
    """
    Join the ring and select this rank's GPU. Call it before anything that uses a GPU.

    GPU memory is allocated as needed, not all at once, so that the ring can be reset in the same process.

    Args:
        seed:
            Seed of all random number generators, the same on all ranks. A shuffled dataset then has the same order on
            all ranks, and each rank takes other batches of it.
            Default: the script's own seeds, if it sets any.
    """
    if hvd is not None:
        hvd.init()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        # Modulo: if CUDA_VISIBLE_DEVICES gives each process its own GPU, it sees fewer GPUs than the node has ranks.
        tf.config.set_visible_devices(gpus[_ring.local_rank() % len(gpus)], "GPU")
    if seed is not None:
        tf.keras.utils.set_random_seed(seed)


def has_horovod() -> bool:
    """Whether Horovod is installed."""
    return hvd is not None


def syncs_by_itself() -> bool:
    """Whether the script trains in Horovod's own elastic loop, which sends the state to new ranks."""
    if not is_elastic():
        return False
    from horovod.common.elastic import notification_manager

    return notification_manager._service is not None


def gather(row: Sequence[float], *, name: str) -> np.ndarray[Any, Any]:
    """Return the rows of all ranks, in the order of ranks; all must have the same length."""
    mine = np.asarray([row], dtype=np.float64)
    if size() == 1:
        return mine
    return np.asarray(hvd.allgather(tf.constant(mine), name=f"HorovodTraining.{name}"))


def broadcast(tensors: Sequence[Any], *, root: int) -> list[Any]:
    """Return *root*'s tensors, all broadcast in one graph."""
    if size() == 1 or not tensors:
        return list(tensors)

    # Named by position: all ranks must use the same names, however often each of them has traced this.
    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow publishes no types
    def all_of_them() -> list[Any]:
        return [
            hvd.broadcast(tensor, root, name=f"HorovodState.{number}", ignore_name_scope=True)
            for number, tensor in enumerate(tensors)
        ]

    # A direct call would warn about the repeated tracing, which is intended.
    return list(all_of_them.get_concrete_function()())


def values_of(variables: Sequence[Any], *, root: int) -> list[Any]:
    """Return the values of *variables*, of either Keras, on *root*."""
    return broadcast([_tensor(variable) for variable in variables], root=root)


def average(gradients: Sequence[Any], *, optimizer: int = 0) -> list[Any]:
    """
    Average gradients over all ranks. A gradient that is `None` must be so on all ranks; sparse ones stay sparse.

    Each gradient has its own operation, so that the first are sent while the last are computed. Operations are numbered
    and not named after variables: Keras's names depend on how many models a process has created before.

    Args:
        gradients: Gradients of one optimizer.
        optimizer: Number of the optimizer among those that may average at the same time.
    """
    return [
        None
        if gradient is None
        else hvd.allreduce(
            gradient, op=hvd.Average, name=f"HorovodGradient.{optimizer}.{number}", ignore_name_scope=True
        )
        for number, gradient in enumerate(gradients)
    ]


def _tensor(variable: Any) -> Any:
    return tf.convert_to_tensor(variable.value if _is_keras_3(variable) else variable)


def _is_keras_3(variable: Any) -> bool:
    return not isinstance(variable, tf.Variable) and not callable(getattr(variable, "value", None))
