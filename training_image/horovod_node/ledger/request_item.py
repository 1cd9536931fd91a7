"""The user's request as the state machine wrote it to the ledger: checked, and with its defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class Request:
    """
    The part of a request that nodes act on.

    Args:
        source: S3 address of the script's folder as .tar.gz.
        entry_point: Path of the training script inside the archive.
        gpus: Ranks of the ring.
        min_gpus: Ranks with which the ring may begin, and to which it may shrink.
        max_restarts: How often the run may be restarted.
        data: Channel name to S3 prefix.
        hyperparameters: Name to JSON value.
        resume_from: Name of the run from whose newest checkpoint this one resumes; '' for none.
        model_required: Whether the run fails when the script leaves no model.
    """

    source: str
    entry_point: str
    gpus: int
    min_gpus: int
    max_restarts: int
    data: Mapping[str, str]
    hyperparameters: Mapping[str, Any]
    resume_from: str = ""
    model_required: bool = True

    @property
    def is_elastic(self) -> bool:
        """Whether the ring may shrink and grow while it trains."""
        return self.min_gpus < self.gpus

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read the request from the ledger's JSON."""
        fields = json.loads(text)
        return cls(
            source=fields[contract.SOURCE],
            entry_point=fields[contract.ENTRY_POINT],
            # JSON has one type of number: 4.0 is a valid count.
            gpus=int(fields[contract.GPUS]),
            min_gpus=int(fields.get(contract.MIN_GPUS, fields[contract.GPUS])),
            max_restarts=int(fields.get(contract.MAX_RESTARTS, 0)),
            data=dict(fields.get(contract.DATA) or {}),
            hyperparameters=dict(fields.get(contract.HYPERPARAMETERS) or {}),
            resume_from=fields.get(contract.RESUME_FROM) or "",
            model_required=fields.get(contract.MODEL) != contract.MODEL_OPTIONAL,
        )
