"""Deletes older checkpoints when a newer one is complete."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from horovod_node.checkpoints.checkpoint_upload import delete
from horovod_node.checkpoints.manifest import FoundCheckpoint, list_checkpoints

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)


def superfluous(found: Sequence[FoundCheckpoint], *, attempt: int, keep: int) -> list[FoundCheckpoint]:
    """
    Return the checkpoints that are no longer needed.

    These are the complete ones beyond the newest *keep*, and incomplete ones older than the newest complete one.
    Checkpoints of later attempts are never among them: a leader that was replaced without knowing it must not delete
    its successor's.

    Args:
        found: All checkpoints of a run, the newest first.
        attempt: The attempt that prunes.
        keep: Number of complete checkpoints that stay, over all attempts.
    """
    complete = [checkpoint.name for checkpoint in found if checkpoint.complete]
    if not complete:
        return []
    kept = complete[:keep]
    return [
        checkpoint
        for checkpoint in found
        if checkpoint.name.attempt <= attempt and checkpoint.name < complete[0] and checkpoint.name not in kept
    ]


def prune(s3: S3Client, *, bucket: str, run_id: str, attempt: int, keep: int) -> None:
    """Delete superfluous checkpoints, their manifests first: a partly deleted one must not seem complete."""
    old = superfluous(list_checkpoints(s3, bucket=bucket, run_id=run_id), attempt=attempt, keep=keep)
    if not old or not delete(s3, bucket=bucket, keys=[found.name.manifest_key for found in old if found.complete]):
        return
    delete(s3, bucket=bucket, keys=[key for found in old for key in found.keys if key != found.name.manifest_key])
    _log.info("removed %d older checkpoints", len(old))
