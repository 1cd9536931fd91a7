"""What a run is at, finer than the ledger's stages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from horovod_client.status.run_status import (
    NODE_PULLING,
    NODE_STARTED,
    PHASE_BOOT,
    PHASE_CAPACITY,
    PHASE_END,
    PHASE_JOIN,
    PHASE_PULL,
    PHASE_QUEUE,
    PHASE_SAVE,
    PHASE_TERMINATE,
    PHASE_TRAIN,
    NodeStatus,
)
from horovod_node import contract

STARTING: Final = (contract.STAGE_STARTING, contract.STAGE_JOINING)
"""The stages in which nodes are awaited."""
SAVED_AT: Final = "saved_at"
"""Of a run's times: when its model was in S3."""


def phase_of(
    *,
    stage: str | None,
    ended: bool,
    gpus: int | None,
    nodes: Collection[NodeStatus],
    times: Mapping[str, str],
) -> str | None:
    """
    Name the phase, one of `PHASES`; None while there is no stage.

    While nodes are awaited it is the slowest node's: the image is pulled until all have it.

    Args:
        stage: The ledger's.
        ended: Whether the execution is over.
        gpus: GPUs that were asked for.
        nodes: Those of the present attempt.
        times: The run's milestones so far, ISO 8601.
    """
    if stage is None:
        return None
    if ended:
        return PHASE_END
    if stage in STARTING:
        return _starting(gpus=gpus or 1, nodes=nodes)
    if stage == contract.STAGE_SAVING:
        return PHASE_TERMINATE if SAVED_AT in times else PHASE_SAVE
    return {contract.STAGE_QUEUED: PHASE_QUEUE, contract.STAGE_TRAINING: PHASE_TRAIN}.get(stage, PHASE_TERMINATE)


def _starting(*, gpus: int, nodes: Collection[NodeStatus]) -> str:
    if sum(node.gpus for node in nodes) < gpus:
        return PHASE_CAPACITY
    states = {node.state for node in nodes}
    if NODE_STARTED in states:
        return PHASE_BOOT
    return PHASE_PULL if NODE_PULLING in states else PHASE_JOIN
