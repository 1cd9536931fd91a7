"""
Which errors mean that the ring was lost.

`hvd.elastic.run` is not used. Horovod 0.28.1's version for TensorFlow turns TensorFlow's `UnknownError` into a lost
ring when it names one of three operations; for every other one, a grouped allreduce for example, or an error that has
nothing to do with the ring, it returns `None`: the training ends in the middle, as if it had ended well.
"""

from __future__ import annotations

import re

import tensorflow as tf

from horovod_node.training import ring

_RING_ERRORS = (tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.CancelledError)
"""What Horovod's operations fail with when the ring breaks. They answer mismatched tensors with others."""
_OF_HOROVOD = re.compile(r"Horovod(?:[A-Z]\w*| has been shut down)|, in horovod_\w+|gloo/transport/|\bNCCL\b")
"""
The name of an operation that was not named otherwise (`HorovodAllreduce`), the function that made it in TensorFlow's
account of where, or the transport's own words. Not the bare word: it is in the paths of this package.
"""


def is_lost_ring(error: BaseException) -> bool:
    """Whether *error* says that ranks were lost, and not that something is wrong with this one."""
    if not ring.has_horovod():
        return False
    from horovod.common.exceptions import HorovodInternalError

    return isinstance(error, HorovodInternalError) or (
        isinstance(error, _RING_ERRORS) and _OF_HOROVOD.search(str(error)) is not None
    )
