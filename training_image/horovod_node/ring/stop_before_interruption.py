"""The end of an attempt whose ring EC2 is about to break: the last checkpoint is written before, not lost with it."""

from __future__ import annotations

import time
from collections.abc import Callable

from horovod_node import contract
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import TURN_SECONDS, LocalTraining
from horovod_node.node.errors import RunError

WRITE_SECONDS = 30.0
"""For the ranks of the leader's node to write a last checkpoint; of EC2's two minutes it leaves most for the upload."""


def hand_over(node: NodeItem, *, training: LocalTraining, keep: Callable[[], None]) -> RunError:
    """
    Stop the leader's ranks in order, and give the error after which the state machine begins the run anew.

    Args:
        node: The one that EC2 takes away, without which the ring cannot go on.
        training: The leader's ranks.
        keep: Called in every turn.
    """
    give_up_at = time.monotonic() + WRITE_SECONDS
    training.ask_to_stop()
    while training.running and time.monotonic() < give_up_at:
        keep()
        time.sleep(TURN_SECONDS)
    training.kill()
    return RunError(
        contract.ERROR_NODE_FAILED,
        f"EC2 takes node {node.id} ({node.address}, {node.instance_type}, {node.market}, {node.zone}) away: "
        "the training was stopped before, and can go on from its newest checkpoint.",
    )
