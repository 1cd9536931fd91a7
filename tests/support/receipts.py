"""Receipts for tests: one of a run that succeeded, and the check against the published schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

from horovod_client import receipt_schema


def successful_receipt() -> dict[str, Any]:
    """Build the receipt of a run of two nodes that succeeded, as the workflow writes it."""
    return {
        "version": 2,
        "written_by": "workflow",
        "run": "digits-1",
        "execution": "arn:aws:states:eu-west-1:123456789012:execution:TrainingRun:digits-1",
        "outcome": "succeeded",
        "request": {"source": "s3://data/source/abc/source.tar.gz", "entry_point": "train.py", "gpus": 8},
        "fleet": "TrainingFleet",
        "attempts": 1,
        "nodes": [
            {
                "node": "i-0a",
                "address": "10.0.1.4",
                "gpus": 4,
                "instance_type": "g5.12xlarge",
                "zone": "eu-west-1a",
                "market": "on-demand",
                "from": "2025-03-01T10:00:45.000Z",
                "until": "2025-03-01T11:02:34.000Z",
                "usd_per_hour": 5.0,
                "usd": 5.15,
                "on_demand_usd": 5.15,
            },
            {
                "node": "i-0b",
                "address": "10.0.2.17",
                "gpus": 4,
                "instance_type": "g4dn.12xlarge",
                "zone": "eu-west-1b",
                "market": "spot",
                "from": "2025-03-01T10:00:50.000Z",
                "until": "2025-03-01T11:02:05.000Z",
                "usd_per_hour": 2.234,
                "usd": 2.25,
                "on_demand_usd": 4.85,
            },
        ],
        "leader": "i-0a",
        "gpus": 8,
        "ranks": 8,
        "steps": 1200,
        "model": {"uri": "s3://models/runs/digits-1/model.tar.gz", "bytes": 1_234_567, "files": 3},
        "times": {
            "started_at": "2025-03-01T10:00:00Z",
            "reserved_at": "2025-03-01T10:00:02.5Z",
            "ring_at": "2025-03-01T10:02:00Z",
            "trained_at": "2025-03-01T11:02:00Z",
            "saved_at": "2025-03-01T11:02:04Z",
            "terminated_at": "2025-03-01T11:02:34Z",
        },
        "seconds": {
            "queue": 2.5,
            "capacity": 40,
            "boot": 20,
            "pull": 30,
            "join": 26.5,
            "train": 3600,
            "save": 4,
            "terminate": 30,
        },
        "gpu_seconds": {"billed": 29_000, "useful": 26_100, "ratio": 0.9},
        "cost": {"usd": 7.4, "spent_usd": 7.4, "on_demand_usd": 10, "saved_usd": 2.6, "usd_per_hour": 7.234},
        "image": "training@sha256:abc",
        "library_version": "0.5.0",
    }


def validate_receipt(receipt: Mapping[str, Any]) -> None:
    """Raise `jsonschema.ValidationError` if *receipt* does not match the schema."""
    schema = receipt_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(receipt)
