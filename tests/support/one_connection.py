"""What a client knows of a training, without a stack that says it."""

from __future__ import annotations

from typing import Any

from horovod_client.aws.connection import Connection, Fleet


def connection_to(*fleets: Fleet, region: str = "eu-west-1", **facts: Any) -> Connection:
    """Build the connection to a training with these fleets; *facts* are more of its fields."""
    return Connection(
        state_machine=f"arn:aws:states:{region}:123456789012:stateMachine:Run",
        data_bucket="data",
        model_bucket="models",
        ledger_table="ledger",
        queue="Training",
        log_group="/cdk-horovod/Training",
        fleets=fleets,
        max_runtime_seconds=36_000,
        **facts,
    )
