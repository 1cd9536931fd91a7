"""The end of a training before its script's own: at the cost ceiling, before an interruption, or after a failure."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.waiting import Interval, wait_until

CEILING_POLL_SECONDS = 5.0
"""Between two reads of a ceiling that is not known yet; a run without a ceiling has none."""
WRITE_SECONDS = 30.0
"""For the ranks of the leader's node to write a last checkpoint; of EC2's two minutes it leaves most for the upload."""


class CeilingReader:
    """
    Reads the run's cost ceiling, until it is known.

    Args:
        work: What the node works on.
    """

    def __init__(self, work: NodeAttempt) -> None:
        self._lease = work.lease
        self._ledger = work.ledger.with_patience(0)
        self._ceiling: CostCeiling | None = None
        self._poll = Interval(CEILING_POLL_SECONDS)

    def read(self, task: Task) -> CostCeiling | None:
        """
        Give the ceiling of this ring, which the state machine writes together with its question for the training.

        Until it asks, the run's item has what the ring of an attempt before cost.

        Args:
            task: What the leader answers now.
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
    Stop the ring before *ceiling*, and mirror what the script left in the checkpoints' folder of this node, the leader.

    The leader's ranks are the first to hear SIGTERM. Ranks of other nodes that stopped before them would break the ring
    under rank 0 while it writes its last checkpoint; they stop when their nodes read that the leader gave up.

    Args:
        training: The leader's ranks.
        ceiling: What the run may cost.
        mirror: The checkpoints' way to S3.
        keep: Called in every turn, and with the node's *state* when that changes.

    Returns:
        The error that ends the run: what it cost, and where its last checkpoint is.
    """
    cost = ceiling.explain(time.time())
    _end_ranks(training, seconds=ceiling.ranks_end_at - time.time(), keep=keep)
    keep(state=contract.NODE_FAILED)
    saved = save_last_checkpoint(mirror, seconds=ceiling.upload_ends_at - time.time(), keep=keep)
    return RunError(contract.ERROR_COST_CEILING, f"{cost} {saved}")


def hand_over(node: NodeItem, *, training: LocalTraining, keep: Callable[[], None]) -> RunError:
    """
    Stop the leader's ranks in order, and give the error after which the state machine begins the run anew.

    Args:
        node: The one that EC2 takes away, without which the ring cannot go on.
        training: The leader's ranks.
        keep: Called in every turn.
    """
    _end_ranks(training, seconds=WRITE_SECONDS, keep=keep)
    return RunError(
        contract.ERROR_NODE_FAILED,
        f"EC2 takes node {node.id} ({node.address}, {node.instance_type}, {node.market}, {node.zone}) away: "
        "the training was stopped before, and can go on from its newest checkpoint.",
    )


def save_last_checkpoint(mirror: CheckpointMirror, *, seconds: float, keep: Callable[[], None]) -> str:
    """
    Bring the present state of the checkpoints' folder to S3, and say in a sentence what became of it.

    Args:
        mirror: The folder's mirror.
        seconds: How long to wait for it.
        keep: Called in every turn; what it raises ends the waiting.
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


def _end_ranks(training: LocalTraining, *, seconds: float, keep: Callable[[], None]) -> None:
    """Ask the ranks of this node to stop, and kill those that still run after *seconds*."""
    training.ask_to_stop()
    wait_until(lambda: not training.running, tick=keep, seconds=seconds)
    training.kill()


def _older(mirror: CheckpointMirror) -> str:
    return f" The newest that is in S3 is {mirror.uri(mirror.newest)}." if mirror.newest else ""
