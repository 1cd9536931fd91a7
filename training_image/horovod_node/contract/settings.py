"""The settings of a run, which are the construct's and not the request's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """
    What the construct decided and the node obeys; JSON in the run's ledger item, one key a field.

    Args:
        model_bucket: Where the model goes.
        heartbeat_seconds: The state machine gives the leader up after this long without a heartbeat.
        first_step_seconds: The first training step must come this long after the ranks started.
        stall_seconds: Every later step must come this long after the one before.
        lease_seconds: How long a lease is valid after the leader renewed it.
        elastic_seconds: How long an elastic ring that has fewer GPUs than it may waits for more.
        keep_checkpoints: The newest so many of a run's checkpoints stay in S3.
    """

    model_bucket: str
    heartbeat_seconds: int
    first_step_seconds: int
    stall_seconds: int
    lease_seconds: int
    elastic_seconds: int
    keep_checkpoints: int
