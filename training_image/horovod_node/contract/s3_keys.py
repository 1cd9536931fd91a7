"""
Keys in the data bucket and in the model bucket.

A run's objects lie below its id (`horovod_node.contract.run_id`), which begins with the name of its training: what a
training's nodes may touch can thus be said by prefix.
"""

from __future__ import annotations

from typing import Final

from horovod_node.contract.run_id import run_ids_prefix

RUNS_PREFIX: Final = "runs/"
"""Of what runs leave in the model bucket but checkpoints."""


SOURCE_PATTERN: Final = r"source/([0-9a-f]{64})/source\.tar\.gz"
"""Of a `source_key`, with the digest as its group."""


def source_key(digest: str) -> str:
    """
    Key in the data bucket of a packaged script; the same content is stored once.

    Args:
        digest: SHA-256 of the tar archive before its compression, in hexadecimal digits. Nodes verify it.
    """
    return f"source/{digest}/source.tar.gz"


def runs_of(training: str, run: str) -> str:
    """Prefix in the model bucket of what all runs of this name left but checkpoints."""
    return f"{RUNS_PREFIX}{run_ids_prefix(training, run)}"


def model_key(run_id: str) -> str:
    """Key in the model bucket of the run's model: `/opt/ml/model`, packed as SageMaker packs it."""
    return f"{RUNS_PREFIX}{run_id}/model.tar.gz"


MODEL_UPLOAD: Final = "upload"
"""Metadata of a model: tells its upload from every other one, so that a repeated request knows its own object."""
MODEL_ATTEMPT: Final = "attempt"
"""Metadata of a model: the attempt that stored it."""
MODEL_FILES: Final = "files"
"""Metadata of a model: the files in it."""


def tensorboard_prefix(run_id: str) -> str:
    """Prefix in the model bucket of what the run's script wrote for TensorBoard."""
    return f"{RUNS_PREFIX}{run_id}/tensorboard/"


CHECKPOINT_PREFIX: Final = "checkpoints/"
"""Of all checkpoints in the model bucket; they expire, models do not."""


def checkpoint_prefix(run_id: str, attempt: int | None = None, sequence: int | None = None) -> str:
    """
    Prefix in the model bucket of all checkpoints of a run, of those of one attempt, or of one of them.

    Keys sort as checkpoints follow each other. A leader that was given up and does not know it writes below its own
    attempt, which never sorts behind a later one's.
    """
    prefix = f"{CHECKPOINT_PREFIX}{run_id}/"
    if attempt is not None:
        prefix += f"{attempt:04d}-"
        if sequence is not None:
            prefix += f"{sequence:08d}/"
    return prefix


def checkpoints_of(training: str, run: str) -> str:
    """Prefix in the model bucket of the checkpoints of all runs of this name."""
    return f"{CHECKPOINT_PREFIX}{run_ids_prefix(training, run)}"


CHECKPOINT_MANIFEST: Final = "manifest.json"
"""Below a checkpoint's prefix. Written last: a checkpoint without one is not there."""
CHECKPOINT_FILES: Final = "files/"
"""Below a checkpoint's prefix: what the script wrote, which may be called `manifest.json` too."""


def receipt_key(run_id: str) -> str:
    """Key in the model bucket of the run's receipt."""
    return f"{RUNS_PREFIX}{run_id}/receipt.json"
