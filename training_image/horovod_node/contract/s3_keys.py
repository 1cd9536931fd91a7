"""
Keys in the data bucket and in the model bucket.

The keys of a run's objects contain its id (`horovod_node.contract.run_id`), which begins with the name of its training.
A prefix can therefore limit what a training's nodes may access.
"""

from __future__ import annotations

from typing import Final

from horovod_node.contract.run_id import run_ids_prefix

RUNS_PREFIX: Final = "runs/"
"""Prefix of all objects of runs in the model bucket, except checkpoints."""


SOURCE_PATTERN: Final = r"source/([0-9a-f]{64})/source\.tar\.gz"
"""Matches a `source_key`; its group is the digest."""


def source_key(digest: str) -> str:
    """
    Return the key in the data bucket of a packaged script; the same content is stored once.

    Args:
        digest: SHA-256 of the tar archive before compression, in hexadecimal digits. Nodes verify it.
    """
    return f"source/{digest}/source.tar.gz"


def runs_of(training: str, run: str) -> str:
    """Return the prefix in the model bucket of the objects of all runs of this name, except checkpoints."""
    return f"{RUNS_PREFIX}{run_ids_prefix(training, run)}"


def model_key(run_id: str) -> str:
    """Return the key in the model bucket of the run's model: `/opt/ml/model`, packed as SageMaker packs it."""
    return f"{RUNS_PREFIX}{run_id}/model.tar.gz"


MODEL_UPLOAD: Final = "upload"
"""Metadata of a model: the unique id of its upload, by which a retry recognises its own object."""
MODEL_ATTEMPT: Final = "attempt"
"""Metadata of a model: the attempt that stored it."""
MODEL_FILES: Final = "files"
"""Metadata of a model: the number of files in it."""


def tensorboard_prefix(run_id: str) -> str:
    """Return the prefix in the model bucket of the files that the run's script wrote for TensorBoard."""
    return f"{RUNS_PREFIX}{run_id}/tensorboard/"


CHECKPOINT_PREFIX: Final = "checkpoints/"
"""Prefix of all checkpoints in the model bucket; they expire, models do not."""


def checkpoint_prefix(run_id: str, attempt: int | None = None, sequence: int | None = None) -> str:
    """
    Return the prefix in the model bucket of a run's checkpoints, of those of one attempt, or of a single one.

    Keys sort in the order of checkpoints. A leader that was replaced without knowing it writes below the prefix of its
    own attempt, which sorts before that of a later attempt.
    """
    prefix = f"{CHECKPOINT_PREFIX}{run_id}/"
    if attempt is not None:
        prefix += f"{attempt:04d}-"
        if sequence is not None:
            prefix += f"{sequence:08d}/"
    return prefix


def checkpoints_of(training: str, run: str) -> str:
    """Return the prefix in the model bucket of the checkpoints of all runs of this name."""
    return f"{CHECKPOINT_PREFIX}{run_ids_prefix(training, run)}"


CHECKPOINT_MANIFEST: Final = "manifest.json"
"""Manifest below a checkpoint's prefix. It is written last: a checkpoint without one is incomplete."""
CHECKPOINT_FILES: Final = "files/"
"""Folder below a checkpoint's prefix. It keeps the script's files, which may be called `manifest.json`, apart."""


def receipt_key(run_id: str) -> str:
    """Return the key in the model bucket of the run's receipt."""
    return f"{RUNS_PREFIX}{run_id}/receipt.json"
