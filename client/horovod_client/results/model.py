"""A run's model, from S3 to a folder."""

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
Unpacked: three times what a node can upload (320 GB). A script writes its model, so a damaged or hostile one must not
fill the disk of who downloads it without end.
"""


def checked_target(path: str | PathLike[str]) -> Path:
    """
    Return the folder that a model may be unpacked to.

    Args:
        path: What a user named.

    Raises:
        InvalidInput: If something is there already, other than an empty folder.
    """
    target = Path(path)
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise InvalidInput(f"'path' must be a new or an empty folder, got {target}: choose another one")
    return target


def download_model(s3: S3Client, *, bucket: str, key: str, target: Path) -> Path:
    """
    Unpack a model while it comes; *target* is there as a whole or not at all.

    Only regular files and folders are unpacked, at most `MODEL_LIMIT_BYTES` in at most `contract.ARCHIVE_ENTRIES_LIMIT`
    of them.

    Args:
        s3: Client of the bucket's region.
        bucket: Bucket of the models.
        key: The archive.
        target: A new or empty folder.

    Raises:
        HorovodClientError: If `contract.unpack_archive` refuses the archive.
        InvalidInput: If *target* cannot be written.
        NoSuchKey: S3's, if there is no such archive.
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
    # Beside the target, so that it is on the same disk and a rename is all that is left to do.
    half = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        contract.unpack_archive(body, into=half, most_bytes=MODEL_LIMIT_BYTES)
        half.chmod(0o777 & ~_umask())  # mkdtemp lets nobody else in
        half.replace(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _umask() -> int:
    """The mask can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
