"""The checkpoint that is written when the ranks have ended, or are about to."""

from __future__ import annotations

import time
from collections.abc import Callable

from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.local_ranks.local_training import TURN_SECONDS


def save_last_checkpoint(mirror: CheckpointMirror, *, give_up_at: float, keep: Callable[[], None]) -> str:
    """
    Bring the present state of the checkpoints' folder to S3, and say in a sentence what became of it.

    Args:
        mirror: The folder's mirror.
        give_up_at: Epoch seconds at which nothing is waited for any more.
        keep: Called in every turn; what it raises ends the waiting.
    """
    flush = mirror.flush()
    while not flush.done():
        if time.time() >= give_up_at:
            return (
                f"The checkpoints in {mirror.folder} could not be uploaded in the time that was left.{_older(mirror)}"
            )
        keep()
        time.sleep(TURN_SECONDS)
    if flush.cancelled():
        return f"The checkpoints in {mirror.folder} were not uploaded.{_older(mirror)}"
    error = flush.exception()
    if error is not None:
        return f"The checkpoints could not be uploaded to {mirror.address}: {error}.{_older(mirror)}"
    newest = flush.result()
    if newest is None:
        return f"The script left no checkpoint in {mirror.folder}."
    return f"The last checkpoint is {mirror.uri(newest)}."


def _older(mirror: CheckpointMirror) -> str:
    return f" The newest that is in S3 is {mirror.uri(mirror.newest)}." if mirror.newest else ""
