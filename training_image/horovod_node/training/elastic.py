"""
Recognises errors that mean that the ring was lost.

`hvd.elastic.run` is not used. Horovod 0.28.1's version for TensorFlow treats TensorFlow's `UnknownError` as a lost ring
only if it names one of three operations. For any other, such as a grouped allreduce, or for an unrelated error, it
returns `None`: the training ends early, as if it had succeeded.
"""

from __future__ import annotations

import re

import tensorflow as tf

from horovod_node.training import ring

_RING_ERRORS = (tf.errors.UnknownError, tf.errors.AbortedError, tf.errors.CancelledError)
"""Errors of Horovod's operations when the ring breaks. Mismatched tensors raise others."""
_OF_HOROVOD = re.compile(r"Horovod(?:[A-Z]\w*| has been shut down)|, in horovod_\w+|gloo/transport/|\bNCCL\b")
"""
Matches the default name of an operation (`HorovodAllreduce`), the function that created it in TensorFlow's message, or
a message of the transport. Not the bare word "horovod", which is in the paths of this package.
"""


def is_lost_ring(error: BaseException) -> bool:
    """Whether *error* means that ranks were lost, and not that this rank failed."""
    if not ring.has_horovod():
        return False
    from horovod.common.exceptions import HorovodInternalError

    return isinstance(error, HorovodInternalError) or (
        isinstance(error, _RING_ERRORS) and _OF_HOROVOD.search(str(error)) is not None
    )
