"""Stopping a training early: at the cost ceiling, before an interruption, or after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.waiting import Interval, wait_until

CEILING_POLL_SECONDS = 5.0
"""Time between two reads of the ceiling until it is known; a run without one is polled to its end."""
WRITE_SECONDS = 30.0
"""
Time for the ranks of the leader's node to write a last checkpoint. It leaves most of EC2's two minutes for the upload.
"""


class CeilingReader:
    """
    Reads the run's cost ceiling, until it is known.

    Args:
        work: The node's part in the attempt.
    """

    def __init__(self, work: NodeAttempt) -> None:
        self._lease = work.lease
        self._ledger = work.ledger.with_patience(0)
        self._ceiling: CostCeiling | None = None
        self._poll = Interval(CEILING_POLL_SECONDS)

    def read(self, task: Task) -> CostCeiling | None:
        """
        Return this ring's ceiling, which the state machine writes together with the token of the train task.

        Until then the run's item may hold the ceiling of an earlier attempt's ring, so it is not read.

        Args:
            task: The leader's current task.
        """
        asked = task.name != contract.TASK_RING and task.is_asked
        if self._ceiling is None and asked and self._poll.elapsed():
            with suppress(LedgerUnreachableError):
                self._ceiling = self._ledger.cost_ceiling(self._lease)
        return self._ceiling


def stop_at_ceiling(
    *, training: LocalTraining, ceiling: CostCeiling, mirror: CheckpointMirror, keep: Callable[..., None]
) -> RunError:
    """
    Stop the ring before *ceiling*, and upload the checkpoints on this node, the leader.

    The leader's ranks receive SIGTERM first. If ranks of other nodes stopped before them, the ring would break while
    rank 0 writes its last checkpoint. They stop when their nodes read that the leader gave up.

    Args:
        training: The leader's ranks.
        ceiling: The run's cost ceiling.
        mirror: Uploads the checkpoints.
        keep: Called repeatedly, and with the node's *state* when that changes.

    Returns:
        The error that ends the run: its cost, and where its last checkpoint is.
    """
    cost = ceiling.explain(time.time())
    _end_ranks(training, seconds=ceiling.ranks_end_at - time.time(), keep=keep)
    # The last checkpoint is labelled with the ranks' last step.
    keep(state=contract.NODE_FAILED, step=training.step)
    saved = save_last_checkpoint(mirror, seconds=ceiling.upload_ends_at - time.time(), keep=keep)
    return RunError(contract.ERROR_COST_CEILING, f"{cost} {saved}")


def hand_over(reason: str, *, training: LocalTraining, keep: Callable[..., None]) -> RunError:
    """
    Stop the leader's ranks in order, and return the error after which the state machine restarts the run.

    Args:
        reason: What will end the ring, as the beginning of a sentence.
        training: The leader's ranks.
        keep: Called repeatedly.
    """
    _end_ranks(training, seconds=WRITE_SECONDS, keep=keep)
    return RunError(
        contract.ERROR_NODE_FAILED,
        f"{reason}: the training was stopped first, and can resume from its newest checkpoint.",
    )


def save_last_checkpoint(mirror: CheckpointMirror, *, seconds: float, keep: Callable[[], None]) -> str:
    """
    Upload the checkpoints' folder as it is, and return a sentence that says how that ended.

    Args:
        mirror: The folder's mirror.
        seconds: How long to wait for the upload.
        keep: Called repeatedly; an exception that it raises ends the wait.
    """
    flush = mirror.flush()
    if not wait_until(flush.done, tick=keep, seconds=seconds):
        return f"The checkpoints in {mirror.folder} could not be uploaded in the time that was left.{_older(mirror)}"
    if flush.cancelled():
        return f"The checkpoints in {mirror.folder} were not uploaded.{_older(mirror)}"
    error = flush.exception()
    if error is not None:
        return f"The checkpoints could not be uploaded to {mirror.address}: {error}.{_older(mirror)}"
    newest = flush.result()
    if newest is None:
        return f"The script left no checkpoint in {mirror.folder}."
    return f"The last checkpoint is {mirror.uri(newest)}."


def _end_ranks(training: LocalTraining, *, seconds: float, keep: Callable[..., None]) -> None:
    """Ask the ranks of this node to stop, and kill those that still run after *seconds*."""
    training.ask_to_stop()
    wait_until(lambda: not training.running, tick=lambda: keep(step=training.step), seconds=seconds)
    training.kill()


def _older(mirror: CheckpointMirror) -> str:
    return f" The newest that is in S3 is {mirror.uri(mirror.newest)}." if mirror.newest else ""
