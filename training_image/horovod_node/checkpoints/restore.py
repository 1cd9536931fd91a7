"""Restores the newest checkpoint to a node before its ranks start."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.checkpoints.manifest import (
    CheckpointFile,
    CheckpointName,
    Manifest,
    ManifestError,
    complete_checkpoints,
    read_manifest,
    resumable_checkpoints,
)
from horovod_node.node.errors import RunError
from horovod_node.node.folders import Layout
from horovod_node.transfer.s3 import refused, unwritten

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_FILES_AT_ONCE = 16
_PARTS_AT_ONCE = 4
"""The same as for data channels; the agent's connection pool is sized for it."""
_GONE = ("404", "NoSuchKey", "NoSuchVersion", "412", "PreconditionFailed")
_FORBIDDEN = ("403", "AccessDenied")
"""S3's error for a missing object, if the caller may list only some prefixes of the bucket."""


class UnusableError(Exception):
    """
    A checkpoint does not match its manifest, or was pruned meanwhile; another one is tried.

    Args:
        name: Name of the checkpoint.
        message: One sentence.
    """

    def __init__(self, name: CheckpointName, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Restored:
    """
    The checkpoint that a node begins with.

    Args:
        name: Name of the checkpoint, of this run or of the one that it resumes.
        step: Training step of the checkpoint; `None` if it is unknown.
        files: Number of its files.
        bytes: Size of all files.
        received_bytes: Bytes that were downloaded; the other files were already on the node.
    """

    name: CheckpointName
    step: int | None
    files: int
    bytes: int
    received_bytes: int


def restore(s3: S3Client, *, layout: Layout, bucket: str, run_id: str, resume_from: str) -> Restored | None:
    """
    Replace the checkpoint folder with the run's newest complete checkpoint, or else with that of *resume_from*.

    All nodes of a ring must begin with the same files. So all others are removed from the folder, for example those of
    an earlier attempt; without any checkpoint, the folder is emptied.

    Args:
        s3: boto3 client.
        layout: The node's folders. No rank may run.
        bucket: Bucket of the checkpoints.
        run_id: Id of the node's run. Checkpoints of earlier runs with the same name are ignored.
        resume_from: Name of a run of the same training, for a run that has no checkpoint yet; '' for none.

    Returns:
        The restored checkpoint; `None` if there is none, and the folder is empty.

    Raises:
        RunError: If *resume_from* has no checkpoint, none of the checkpoints can be used, or S3 does not answer.
    """
    unusable: dict[CheckpointName, str] = {}
    while True:
        try:
            name = _choose(s3, bucket=bucket, run_id=run_id, resume_from=resume_from, unusable=unusable)
            if name is None:
                with _replacement(layout.checkpoints):
                    return None
            return _restore(s3, bucket=bucket, name=name, folder=layout.checkpoints)
        except UnusableError as error:
            _log.warning("%s", error)
            unusable[error.name] = str(error)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            uri = f"s3://{bucket}/{contract.checkpoint_prefix(run_id)}"
            raise refused("The checkpoint", uri, error) from error
        except OSError as error:
            raise unwritten("The checkpoint", layout.checkpoints, error) from error


def _choose(
    s3: S3Client, *, bucket: str, run_id: str, resume_from: str, unusable: Mapping[CheckpointName, str]
) -> CheckpointName | None:
    """Return the newest checkpoint not known to be unusable. S3 is listed each time: a leader may be pruning."""
    found = complete_checkpoints(s3, bucket=bucket, run_id=run_id)
    if not found and resume_from:
        found = resumable_checkpoints(s3, bucket=bucket, run=resume_from, instead_of=run_id)
        if not found:
            raise RunError(
                contract.ERROR_DATA_NOT_FOUND,
                f"'{contract.RESUME_FROM}' is {resume_from}, of which there is no complete checkpoint: "
                f"s3://{bucket}/{contract.checkpoints_of(contract.training_of(run_id), resume_from)}.",
            )
    usable = [name for name in found if name not in unusable]
    if found and not usable:
        # To begin without a checkpoint would silently discard what may be weeks of work.
        raise RunError(contract.ERROR_NODE_FAILED, f"No checkpoint can be restored. {' '.join(unusable.values())}")
    return usable[0] if usable else None


def _restore(s3: S3Client, *, bucket: str, name: CheckpointName, folder: Path) -> Restored:
    started = time.monotonic()
    with _replacement(folder) as new:
        manifest = _manifest(s3, bucket=bucket, name=name)
        received = _bring(s3, bucket=bucket, manifest=manifest, here=folder, into=new)
    restored = Restored(
        name=name,
        step=manifest.step,
        files=len(manifest.files),
        bytes=manifest.total_bytes,
        received_bytes=received,
    )
    _log.info(
        "restored %s: %d files, %s bytes, of which %s came from S3, in %.1f s",
        name.uri(bucket),
        restored.files,
        f"{restored.bytes:,}",
        f"{restored.received_bytes:,}",
        time.monotonic() - started,
    )
    return restored


@contextmanager
def _replacement(folder: Path) -> Iterator[Path]:
    """
    Yield an empty folder, which replaces *folder* at the end, unless an exception is raised.

    *folder* thus never has a part of a checkpoint. Between the two renames it does not exist; if the agent is killed
    there, the next one creates it and restores again.
    """
    new, old = folder.with_name(f".{folder.name}-new"), folder.with_name(f".{folder.name}-old")
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        for done in (new, old):
            shutil.rmtree(done, ignore_errors=True)


def _manifest(s3: S3Client, *, bucket: str, name: CheckpointName) -> Manifest:
    try:
        return read_manifest(s3, bucket=bucket, name=name)
    except ManifestError as error:
        raise UnusableError(name, f"The manifest of {name.uri(bucket)} cannot be used: {error}.") from error
    except ClientError as error:
        if _is_gone(s3, error, bucket=bucket, key=name.manifest_key):
            raise UnusableError(name, f"{name.uri(bucket)} was removed meanwhile.") from error
        raise


def _bring(s3: S3Client, *, bucket: str, manifest: Manifest, here: Path, into: Path) -> int:
    """Put the files of *manifest* into *into*, from S3 unless *here* has them; return the bytes from S3."""
    transfer = TransferConfig(max_concurrency=_PARTS_AT_ONCE)

    def bring(file: CheckpointFile) -> int:
        local, target = here / file.path, into / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        received = 0
        if not (_holds(local, file) and _link(local, target)):
            _download(s3, bucket=bucket, manifest=manifest, file=file, target=target, transfer=transfer)
            received = file.bytes
        os.utime(target, ns=(file.mtime_ns, file.mtime_ns))
        return received

    executor = ThreadPoolExecutor(_FILES_AT_ONCE)
    try:
        files = [executor.submit(bring, file) for file in manifest.files]
        for done in wait(files, return_when=FIRST_EXCEPTION).done:
            done.result()
        return sum(file.result() for file in files)
    finally:
        # Wait: a download that goes on would write into the folder of the next try.
        executor.shutdown(wait=True, cancel_futures=True)


def _download(
    s3: S3Client, *, bucket: str, manifest: Manifest, file: CheckpointFile, target: Path, transfer: TransferConfig
) -> None:
    key = manifest.name.file_key(file.path)
    try:
        s3.download_file(bucket, key, str(target), Config=transfer)
    except ClientError as error:
        if _is_gone(s3, error, bucket=bucket, key=key):
            raise UnusableError(manifest.name, f"s3://{bucket}/{key} is missing.") from error
        raise
    if not _holds(target, file):
        raise UnusableError(manifest.name, f"s3://{bucket}/{key} is not what its manifest says.")


def _holds(path: Path, file: CheckpointFile) -> bool:
    """Return whether the file at *path* has the size and digest of *file*."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.bytes:
        return False
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _link(local: Path, target: Path) -> bool:
    try:
        target.hardlink_to(local)
    except OSError:  # for example, on another file system: the file is then downloaded
        return False
    return True


def _is_gone(s3: S3Client, error: ClientError, *, bucket: str, key: str) -> bool:
    """Return whether the object is missing. S3 reports it as forbidden if the caller may not list the whole bucket."""
    code = error.response["Error"]["Code"]
    if code in _GONE:
        return True
    if code not in _FORBIDDEN:
        return False
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", ())
    return not any(item["Key"] == key for item in listed)
