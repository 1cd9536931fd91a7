"""Download of a run's model."""

from __future__ import annotations

import os
import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from horovod_client.errors import HorovodClientError, InvalidInput
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MODEL_LIMIT_BYTES: Final = 1024**4
"""
Limit of the unpacked size: three times what a node can upload (320 GB). It keeps a damaged or hostile model from
filling the user's disk.
"""


def checked_target(path: str | PathLike[str]) -> Path:
    """
    Return *path* if a model may be unpacked to it.

    Args:
        path: Path of a folder.

    Raises:
        InvalidInput: If *path* exists and is not an empty folder.
    """
    target = Path(path)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise InvalidInput(f"'path' must be a new or empty folder, got '{target}': choose another path")
    return target


def download_model(s3: S3Client, *, bucket: str, key: str, target: Path) -> Path:
    """
    Download and unpack a model; *target* is complete or does not exist.

    Only regular files and folders are unpacked, at most `contract.ARCHIVE_ENTRIES_LIMIT` entries with
    `MODEL_LIMIT_BYTES`.

    Args:
        s3: Client of the bucket's Region.
        bucket: Name of the model bucket.
        key: Key of the archive.
        target: New or empty folder.

    Raises:
        HorovodClientError: If `contract.unpack_archive` refuses the archive.
        InvalidInput: If *target* cannot be written.
        NoSuchKey: S3's error, if there is no such archive.
    """
    body = s3.get_object(Bucket=bucket, Key=key)["Body"]
    try:
        _unpack(cast("IO[bytes]", body), target=target)
    except OSError as error:
        name = error.filename or target
        raise InvalidInput(f"cannot write to '{name}': {error.strerror}: name another folder") from error
    except contract.ArchiveRefused as refusal:
        raise HorovodClientError(f"the model s3://{bucket}/{key} was not unpacked: {refusal}") from refusal
    return target


def _unpack(body: IO[bytes], *, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it is on the same disk and can be renamed.
    half = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        contract.unpack_archive(body, into=half, most_bytes=MODEL_LIMIT_BYTES)
        half.chmod(0o777 & ~_umask())  # mkdtemp permits only the user
        half.replace(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
