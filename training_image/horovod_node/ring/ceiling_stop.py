"""The end of a run that would cost more than it may: its ranks stop in order, its checkpoints come to S3."""

from __future__ import annotations

import time

from horovod_node import contract
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.task import Task
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.local_ranks.local_training import TURN_SECONDS, LocalTraining
from horovod_node.node.errors import RunError
from horovod_node.ring.last_checkpoint import save_last_checkpoint


def stop_at_ceiling(
    membership: Membership, task: Task, *, training: LocalTraining, ceiling: CostCeiling, mirror: CheckpointMirror
) -> RunError:
    """
    Stop the ring before *ceiling*, and mirror what the script left in the checkpoints' folder of this node, the leader.

    The leader's ranks are the first to hear SIGTERM. Ranks of other nodes that stopped before them would break the ring
    under rank 0 while it writes its last checkpoint; they stop when their nodes read that the leader gave up.

    Args:
        membership: Kept meanwhile.
        task: The state machine's question for the training, kept alive meanwhile.
        training: The leader's ranks.
        ceiling: What the run may cost.
        mirror: The checkpoints' way to S3.

    Returns:
        The error that ends the run: what it cost, and where its last checkpoint is.
    """
    cost = ceiling.explain(time.time())

    def keep() -> None:
        membership.keep(step=training.step)
        task.heartbeat()

    training.ask_to_stop()
    while training.running and time.time() < ceiling.ranks_end_at:
        keep()
        time.sleep(TURN_SECONDS)
    training.kill()
    membership.keep(state=contract.NODE_FAILED)
    saved = save_last_checkpoint(mirror, give_up_at=ceiling.upload_ends_at, keep=keep)
    return RunError(contract.ERROR_COST_CEILING, f"{cost} {saved}")
