"""The ring as the training sees it: Horovod's, or one process alone where there is no Horovod."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

try:
    import horovod.tensorflow as hvd
except ImportError:  # a laptop
    if "HOROVOD_RANK" in os.environ:
        raise
    hvd = None


def start(*, seed: int | None = None) -> None:
    """
    Join the ring and take this rank's GPU. Comes before anything that uses a GPU.

    The GPU's memory is taken as it is needed, not all at once, so that a ring can be formed anew in the same process.

    Args:
        seed:
            Of everything random, on all ranks alike: a dataset that shuffles does it alike everywhere, and each rank
            takes other batches of it.
            Default: the script's own seeds, if it sets any.
    """
    if hvd is not None:
        hvd.init()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        # Fewer are seen than there are ranks here when each process was given its own by CUDA_VISIBLE_DEVICES.
        tf.config.set_visible_devices(gpus[_local_rank() % len(gpus)], "GPU")
    if seed is not None:
        tf.keras.utils.set_random_seed(seed)


def has_horovod() -> bool:
    """Whether Horovod is installed here."""
    return hvd is not None


def started() -> bool:
    """Whether `start` was called, or the script called `hvd.init()` itself."""
    return hvd is None or bool(hvd.is_initialized())


def rank() -> int:
    """Give this process's number in the ring; rank 0 writes files and prints."""
    return 0 if hvd is None else int(hvd.rank())


def size() -> int:
    """Give the number of ranks, which may be another one after a node was lost or came."""
    return 1 if hvd is None else int(hvd.size())


def is_elastic() -> bool:
    """Whether the ring may change while this process lives."""
    return hvd is not None and os.environ.get("HOROVOD_ELASTIC") == "1"


def is_ring() -> bool:
    """Whether there is, or may come to be, another rank."""
    return is_elastic() or size() > 1


def form_anew() -> None:
    """Leave the ring that was, and join the one that is; a rank that has no place in it ends here."""
    hvd.shutdown()
    hvd.init()


def gather(row: Sequence[float], *, name: str) -> np.ndarray[Any, Any]:
    """Give everyone's *row*, in the order of ranks; all rows are of one length."""
    mine = np.asarray([row], dtype=np.float64)
    if size() == 1:
        return mine
    return np.asarray(hvd.allgather(tf.constant(mine), name=f"HorovodTraining.{name}"))


def broadcast(tensors: Sequence[Any], *, root: int) -> list[Any]:
    """Give *root*'s tensors, all in one go."""
    if size() == 1 or not tensors:
        return list(tensors)

    # Named by their place: a rank that traces this for the first time must use the names of one that did so before.
    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow publishes no types
    def all_of_them() -> list[Any]:
        return [
            hvd.broadcast(tensor, root, name=f"HorovodState.{number}", ignore_name_scope=True)
            for number, tensor in enumerate(tensors)
        ]

    # Called by itself it would warn that it is traced again and again, which is meant.
    return list(all_of_them.get_concrete_function()())


def average(gradients: Sequence[Any]) -> list[Any]:
    """
    Average gradients over all ranks; what is `None` here must be `None` everywhere, and sparse ones stay sparse.

    One operation for each gradient, so that the first ones travel while the last ones are computed. Their names count
    gradients, and not what Keras calls its variables, which depends on how many models a process has made before.
    """
    return [
        None
        if gradient is None
        else hvd.allreduce(gradient, op=hvd.Average, name=f"HorovodGradient.{number}", ignore_name_scope=True)
        for number, gradient in enumerate(gradients)
    ]


def _local_rank() -> int:
    return 0 if hvd is None else int(hvd.local_rank())
