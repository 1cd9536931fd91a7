"""
The stack output by which clients connect to a `HorovodTraining`.

Clients find the output by its description. Its value is a JSON object with these keys.
"""

from __future__ import annotations

from typing import Final

CONNECTION_DESCRIPTION: Final = "cdk-horovod: how clients connect"
CONNECTION_VERSION: Final = "version"
CONNECTION_STATE_MACHINE: Final = "state_machine"
"""ARN of the run's state machine."""
CONNECTION_DATA_BUCKET: Final = "data_bucket"
"""Bucket of packaged scripts and data."""
CONNECTION_MODEL_BUCKET: Final = "model_bucket"
CONNECTION_LEDGER_TABLE: Final = "ledger_table"
CONNECTION_QUEUE: Final = "queue"
"""Name of the queue in which runs wait for a fleet."""
CONNECTION_FLEETS: Final = "fleets"
"""List of objects with the keys `CONNECTION_FLEET`, …, `CONNECTION_TYPES`."""
CONNECTION_FLEET: Final = "fleet"
CONNECTION_MAX_GPUS: Final = "max_gpus"
CONNECTION_GPU_STEP: Final = "gpu_step"
CONNECTION_GROUP: Final = "group"
"""Of a fleet: name of its Auto Scaling group; absent where its nodes are in none."""
CONNECTION_ENGINE: Final = "engine"
"""Of a fleet: what provides its nodes, such as `ec2`; absent in connections of older releases."""
CONNECTION_JOB_PREFIX: Final = "job_prefix"
"""Of a fleet: what begins the names of its SageMaker training jobs; absent where its nodes are in none."""
CONNECTION_ELASTIC: Final = "elastic"
"""Of a fleet: false where all nodes start and end together; absent elsewhere."""
CONNECTION_TYPES: Final = "types"
"""Of a fleet: JSON object of its instance types, each with its GPUs."""
CONNECTION_PRICED_TYPES: Final = "priced_types"
"""
List of the instance types whose On-Demand prices were given to the construct. If it is absent, requests may hold no
prices, either.
"""
CONNECTION_LOG_GROUP: Final = "log_group"
"""CloudWatch log group of the nodes."""
CONNECTION_MAX_RUNTIME_SECONDS: Final = "max_runtime_seconds"
CONNECTION_MAX_COST_USD: Final = "max_cost_usd"
"""Absent when the construct sets no ceiling."""
