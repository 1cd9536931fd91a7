"""Keys in the data bucket and in the model bucket."""

from __future__ import annotations

from typing import Final


def source_key(digest: str) -> str:
    """Key in the data bucket of a packaged script with this SHA-256 *digest*; the same content is stored once."""
    return f"source/{digest}/source.tar.gz"


def model_key(run: str) -> str:
    """Key in the model bucket of the run's model: `/opt/ml/model`, packed as SageMaker packs it."""
    return f"runs/{run}/model.tar.gz"


def tensorboard_prefix(run: str) -> str:
    """Prefix in the model bucket of what the run's script wrote for TensorBoard."""
    return f"runs/{run}/tensorboard/"


CHECKPOINT_PREFIX: Final = "checkpoints/"
"""Of all checkpoints in the model bucket; they expire, models do not."""


def checkpoint_prefix(run: str, attempt: int | None = None, sequence: int | None = None) -> str:
    """
    Prefix in the model bucket of all checkpoints of *run*, of those of one attempt, or of one of them.

    Keys sort as checkpoints follow each other. A leader that was given up and does not know it writes below its own
    attempt, which never sorts behind a later one's.
    """
    prefix = f"{CHECKPOINT_PREFIX}{run}/"
    if attempt is not None:
        prefix += f"{attempt:04d}-"
        if sequence is not None:
            prefix += f"{sequence:08d}/"
    return prefix


CHECKPOINT_MANIFEST: Final = "manifest.json"
"""Below a checkpoint's prefix. Written last: a checkpoint without one is not there."""
CHECKPOINT_FILES: Final = "files/"
"""Below a checkpoint's prefix: what the script wrote, which may be called `manifest.json` too."""


def receipt_key(run: str) -> str:
    """Key in the model bucket of the run's receipt."""
    return f"runs/{run}/receipt.json"
