"""The ring as the training sees it: Horovod's, or one process alone where there is no Horovod."""

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
started, rank, size = _ring.started, _ring.rank, _ring.size
is_elastic, is_ring, form_anew = _ring.is_elastic, _ring.is_ring, _ring.form_anew


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
        tf.config.set_visible_devices(gpus[_ring.local_rank() % len(gpus)], "GPU")
    if seed is not None:
        tf.keras.utils.set_random_seed(seed)


def has_horovod() -> bool:
    """Whether Horovod is installed here."""
    return hvd is not None


def syncs_by_itself() -> bool:
    """Whether the script trains in Horovod's own elastic loop, which gives ranks that come the others' state."""
    if not is_elastic():
        return False
    from horovod.common.elastic import notification_manager

    return notification_manager._service is not None


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


def values_of(variables: Sequence[Any], *, root: int) -> list[Any]:
    """Give the values that *variables*, of either Keras, have on *root*."""
    return broadcast([_tensor(variable) for variable in variables], root=root)


def average(gradients: Sequence[Any], *, optimizer: int = 0) -> list[Any]:
    """
    Average gradients over all ranks; what is `None` here must be `None` everywhere, and sparse ones stay sparse.

    One operation for each gradient, so that the first ones travel while the last ones are computed. Their names count
    gradients, and not what Keras calls its variables, which depends on how many models a process has made before.

    Args:
        gradients: Of one optimizer.
        optimizer: Its number among those that may average at the same time.
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
