"""Progress of a training, as its leader writes it, and the remaining time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from horovod_client.aws.ledger_items import RunItems, json_of
from horovod_client.status.run_status import TrainingProgress
from horovod_node import contract

RING_AT: Final = "ring_at"
"""Key of a run's times: when its ring was formed."""
WRITTEN_AT: Final = "at"
"""Key of a run's progress: time of the leader's write, in epoch seconds."""


def progress_of(items: RunItems, *, now: float) -> TrainingProgress | None:
    """
    Return the progress of the training; None before the leader has written any.

    Args:
        items: The run's ledger items.
        now: Current time in epoch seconds, used if the progress has no time.
    """
    facts: Mapping[str, Any] | None = json_of(items.progress, contract.PROGRESS_JSON)
    if facts is None:
        return None
    return TrainingProgress(
        step=facts.get("step") or 0,
        steps=facts.get("steps"),
        epoch=facts.get("epoch"),
        epochs=facts.get("epochs"),
        loss=facts.get("loss"),
        samples_per_second=facts.get("samples_per_second"),
        ranks=facts.get(contract.RANKS),
        resets=facts.get("resets") or 0,
        eta_seconds=_eta(facts, times=json_of(items.run, contract.TIMES_JSON) or {}, now=now),
    )


def _eta(facts: Mapping[str, Any], *, times: Mapping[str, str], now: float) -> float | None:
    """Multiply the remaining steps by the seconds per step: the measured ones, or the mean since the ring formed."""
    step, steps = facts.get("step") or 0, facts.get("steps")
    if not steps:
        return None
    compute, wait = facts.get("compute_seconds_per_step"), facts.get("wait_seconds_per_step")
    if compute is not None and wait is not None:
        pace = compute + wait
    elif step and times.get(RING_AT):
        began = datetime.fromisoformat(times[RING_AT]).timestamp()
        pace = max(0.0, (facts.get(WRITTEN_AT) or now) - began) / step
    else:
        return None
    return float(max(0, steps - step) * pace)
