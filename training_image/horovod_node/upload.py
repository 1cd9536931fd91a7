"""A folder's way to S3: packed and uploaded in one stream, so that no second copy needs room on the disk."""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node.background import in_background

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

PART_BYTES = 32 * 1024**2
"""S3 takes 10,000 parts: archives of up to 320 GB, with at most `_PARTS_AT_ONCE` parts in memory."""
_PARTS_AT_ONCE = 8
_GZIP_LEVEL = 1
"""Weights hardly shrink at any level; level 1 takes a third of the time of level 9."""

UPLOAD_ERRORS = (ClientError, BotoCoreError, Boto3Error, OSError, tarfile.TarError)
"""What an upload may fail with."""


class FolderUpload:
    """
    Packs a folder into a .tar.gz object.

    Args:
        s3: boto3 client.
        folder: What to pack; the archive's paths are relative to it.
        bucket: Where the archive goes.
        key: Its key there.
    """

    def __init__(self, s3: S3Client, *, folder: Path, bucket: str, key: str) -> None:
        self._s3 = s3
        self._folder = folder
        self._bucket = bucket
        self._key = key
        self.sent_bytes = 0
        """Bytes of the archive that were handed to S3."""

    def run(self) -> None:
        """Pack and upload; the object appears when all of it is there, never half."""
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as archive:
            packing: Future[None] = in_background(lambda: self._pack(write_end))
            self._s3.upload_fileobj(
                _Checked(archive, packing, self),  # type: ignore[arg-type]  # of a stream, only `read` is used
                self._bucket,
                self._key,
                Config=TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=_PARTS_AT_ONCE
                ),
            )

    def _pack(self, write_end: int) -> None:
        with (
            os.fdopen(write_end, "wb") as pipe,
            gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=_GZIP_LEVEL) as packed,
            tarfile.open(fileobj=packed, mode="w|") as tar,
        ):
            # Of a link goes what it points to, for who unpacks takes files and folders only; so no second name of a
            # file is a link either.
            tar.dereference = True
            _add(tar, self._folder, name="", above=())


def _add(tar: tarfile.TarFile, folder: Path, *, name: str, above: tuple[Path, ...]) -> None:
    """Add what is in *folder*, at *name*; *above* are the real folders on the way to it."""
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        inside = f"{name}{path.name}"
        if path.is_dir() and path.resolve() not in above:
            tar.add(path, arcname=inside, recursive=False)
            _add(tar, path, name=f"{inside}/", above=above)
        elif path.is_file():
            tar.add(path, arcname=inside)
        else:
            _log.warning("%s is left out: it is neither a file nor a folder, or leads back to where it is", path)


class _Checked:
    """The archive's stream; its end is an error when packing failed, so that no cut archive looks like a whole one."""

    def __init__(self, archive: IO[bytes], packing: Future[None], upload: FolderUpload) -> None:
        self._archive = archive
        self._packing = packing
        self._upload = upload

    def read(self, size: int = -1) -> bytes:
        chunk = self._archive.read(size)
        self._upload.sent_bytes += len(chunk)
        if len(chunk) < size or size < 0:
            self._packing.result()
        return chunk
