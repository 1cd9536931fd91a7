"""Which rank a ring waits for, and how much time that costs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from horovod_node.ledger.ledger import NodeItem


@dataclass(frozen=True, kw_only=True)
class RankPace:
    """
    Step timing of one rank.

    Args:
        rank: The rank.
        node: Name of its node.
        instance_type: Instance type of its node.
        compute_seconds_per_step: Time until its own gradients are ready.
        wait_seconds_per_step: Time from then until the gradients of all ranks are averaged.
    """

    rank: int
    node: str
    instance_type: str
    compute_seconds_per_step: float
    wait_seconds_per_step: float


def slowest(paces: Sequence[RankPace]) -> dict[str, Any] | None:
    """
    Find the rank that the others wait for.

    Returns:
        `rank`, `node` and `instance_type` of the rank that computes longest; its `seconds_per_step`; the
        `median_seconds_per_step` of all ranks; and `cost`, the fraction of all ranks' time that is spent waiting for
        this rank. Averaging does not count as cost, because the slowest rank needs it too. `None` when fewer than two
        ranks are known.
    """
    if len(paces) < 2:
        return None
    last = max(paces, key=lambda pace: (pace.compute_seconds_per_step, -pace.rank))
    waited = sum(last.compute_seconds_per_step - pace.compute_seconds_per_step for pace in paces)
    ring_time = len(paces) * (last.compute_seconds_per_step + last.wait_seconds_per_step)
    return {
        "rank": last.rank,
        "node": last.node,
        "instance_type": last.instance_type,
        "seconds_per_step": last.compute_seconds_per_step,
        "median_seconds_per_step": statistics.median(pace.compute_seconds_per_step for pace in paces),
        "cost": waited / ring_time if ring_time > 0 else 0.0,
    }


def slowest_rank(nodes: Sequence[NodeItem]) -> dict[str, Any]:
    """Return the receipt's entry for the slowest rank on *nodes*; empty when it is not known."""
    found = slowest(
        [
            RankPace(
                rank=rank,
                node=node.id,
                instance_type=node.instance_type,
                compute_seconds_per_step=compute,
                wait_seconds_per_step=wait,
            )
            for node in nodes
            for rank, compute, wait in node.pace
        ]
    )
    return {} if found is None else {"slowest": found}
