"""The settings of a run that come from the construct, not from the request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """
    Settings that the construct gives to the nodes; in the run's ledger item, JSON with one key for each field.

    Args:
        model_bucket: Bucket of the model.
        heartbeat_seconds: The state machine considers the leader lost after this long without a heartbeat.
        first_step_seconds: Longest time from the start of the ranks to the first training step.
        stall_seconds: Longest time between two later training steps.
        lease_seconds: How long a lease is valid after the leader renewed it.
        elastic_seconds: How long an elastic ring with too few GPUs waits for more.
        keep_checkpoints: Number of the run's newest checkpoints that stay in S3.
    """

    model_bucket: str
    heartbeat_seconds: int
    first_step_seconds: int
    stall_seconds: int
    lease_seconds: int
    elastic_seconds: int
    keep_checkpoints: int
