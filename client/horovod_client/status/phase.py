"""The phase of a run, which is finer than the ledger's stages."""

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
"""Stages in which nodes start."""
SAVED_AT: Final = "saved_at"
"""Key of a run's times: when its model was in S3."""


def phase_of(
    *,
    stage: str | None,
    ended: bool,
    gpus: int | None,
    nodes: Collection[NodeStatus],
    times: Mapping[str, str],
) -> str | None:
    """
    Return the phase, one of `PHASES`; None while there is no stage.

    While nodes start it is the phase of the slowest node.

    Args:
        stage: Stage in the ledger.
        ended: Whether the execution has ended.
        gpus: GPUs of the request.
        nodes: Nodes of the current attempt.
        times: The run's milestones so far, in ISO 8601.
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
