"""
Training on while the ring changes.

`hvd.elastic.run` is not used. Horovod 0.28.1's version for TensorFlow turns TensorFlow's `UnknownError` into a lost
ring when it names one of three operations; for every other one, a grouped allreduce for example, or an error that has
nothing to do with the ring, it returns `None`: the training ends in the middle, as if it had ended well.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from horovod_node.training import ring

Answer = TypeVar("Answer")

_RING_ERRORS = (tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.CancelledError)
"""What Horovod's operations fail with when the ring breaks. They answer mismatched tensors with others."""
_OF_HOROVOD = re.compile(r"Horovod(?:[A-Z]\w*| has been shut down)|, in horovod_\w+|gloo/transport/|\bNCCL\b")
"""
The name of an operation that was not named otherwise (`HorovodAllreduce`), the function that made it in TensorFlow's
account of where, or the transport's own words. Not the bare word: it is in the paths of this package.
"""


class RingChanged(Exception):  # noqa: N818 - no error: all ranks leave at the same step, and nothing is lost
    """Nodes have come, or are about to go."""


class HostUpdates:
    """Hears from Horovod that the ring is about to change; on rank 0, which tells the others when they commit."""

    def __init__(self) -> None:
        self._news = threading.Event()

    @property
    def pending(self) -> bool:
        """Whether there is something to tell."""
        return self._news.is_set()

    def on_hosts_updated(self, timestamp: float, update_res: Any) -> None:  # noqa: ARG002 - the signature is Horovod's
        """Take Horovod's word for it; called by another thread."""
        self._news.set()

    def clear(self) -> None:
        """Forget what the ring that was formed since takes care of."""
        self._news.clear()


def is_lost_ring(error: BaseException) -> bool:
    """Whether *error* says that ranks were lost, and not that something is wrong with this one."""
    if not ring.has_horovod():
        return False
    from horovod.common.exceptions import HorovodInternalError

    return isinstance(error, HorovodInternalError) or (
        isinstance(error, _RING_ERRORS) and _OF_HOROVOD.search(str(error)) is not None
    )


def keep_training(
    train: Callable[[], Answer], *, sync: Callable[[], None], restore: Callable[[], None], updates: HostUpdates
) -> Answer:
    """
    Train to the end, on one ring after another.

    A ring that breaks costs what was done since the last commit; one that changes in order costs nothing. In a ring
    that cannot change, an error is an error.

    Args:
        train: Trains; begins where the state is.
        sync: Makes the state the same on all ranks, and commits it.
        restore: Goes back to the last commit.
        updates: What *train* raises `RingChanged` for.

    Returns:
        What *train* returned at last.
    """
    if not ring.is_elastic():
        sync()
        return train()
    from horovod.common.elastic import notification_manager

    notification_manager.init()
    notification_manager.register_listener(updates)
    try:
        while True:
            try:
                sync()
                return train()
            except RingChanged:
                pass
            except Exception as error:
                if not is_lost_ring(error):
                    raise
                restore()
            ring.form_anew()
            updates.clear()
    finally:
        notification_manager.remove_listener(updates)
