"""Packs and uploads a folder to S3 in one stream, so that the archive needs no room on the disk."""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.node.background import in_background

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log = logging.getLogger(__name__)

PART_BYTES = 32 * 1024**2
"""S3 accepts 10,000 parts, so archives may have up to 320 GB; about `_PARTS_AT_ONCE` parts are in memory."""
_PARTS_AT_ONCE = 8
_GZIP_LEVEL = 1
"""Model weights hardly shrink at any level; level 1 takes a third of the time of level 9."""

_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchUpload")
"""
S3's error codes if the object exists already, if another upload is storing it, and if an earlier try of the same
request has stored it but its response was lost.
"""

UPLOAD_ERRORS = (ClientError, BotoCoreError, Boto3Error, OSError, tarfile.TarError)
"""Exceptions that an upload may raise."""


class TakenError(Exception):
    """
    The object exists already, and this upload did not store it.

    Args:
        uri: Its address.
        bytes: Its size in bytes.
        metadata: Its metadata.
    """

    def __init__(self, uri: str, *, bytes: int, metadata: Mapping[str, str]) -> None:
        super().__init__(f"{uri} is there already, and this node did not store it")
        self.bytes = bytes
        self.metadata = metadata


class FolderUpload:
    """
    Packs a folder into a .tar.gz object without ever overwriting one.

    S3 refuses the last request of an upload if the key exists (S3 User Guide, "How to prevent object overwrites with
    conditional writes"). s3transfer 0.19 does not support that condition, so the parts are sent here.

    Args:
        s3: boto3 client.
        folder: The folder to pack; the archive's paths are relative to it.
        bucket: Target bucket.
        key: Key of the archive.
        metadata: Metadata of the object. Default: only the id of this upload.
    """

    def __init__(
        self, s3: S3Client, *, folder: Path, bucket: str, key: str, metadata: Mapping[str, str] | None = None
    ) -> None:
        self._s3 = s3
        self._folder = folder
        self._bucket = bucket
        self._key = key
        self._metadata = {**(metadata or {}), contract.MODEL_UPLOAD: uuid.uuid4().hex}
        self.sent_bytes = 0
        """Compressed bytes read for sending."""
        self.packed_bytes = 0
        """Bytes packed, before compression; for files that compress well this grows long before the first send."""

    def run(self) -> None:
        """
        Pack and upload; the object appears only when it is complete.

        Raises:
            TakenError: If the object exists already.
            UPLOAD_ERRORS: If packing or uploading failed.
        """
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as archive:
            packing: Future[None] = in_background(lambda: self._pack(write_end))
            stream = _Checked(archive, packing, self)
            first = stream.read(PART_BYTES)
            if len(first) < PART_BYTES:
                self._complete(
                    lambda: self._s3.put_object(
                        Bucket=self._bucket, Key=self._key, Body=first, Metadata=self._metadata, IfNoneMatch="*"
                    )
                )
            else:
                self._send_parts(first, stream)

    def _send_parts(self, first: bytes, stream: _Checked) -> None:
        upload = self._s3.create_multipart_upload(Bucket=self._bucket, Key=self._key, Metadata=self._metadata)
        upload_id = upload["UploadId"]
        try:
            sending: list[Future[CompletedPartTypeDef]] = []
            with ThreadPoolExecutor(_PARTS_AT_ONCE) as executor:
                chunk = first
                while chunk:
                    if len(sending) >= _PARTS_AT_ONCE:
                        sending[-_PARTS_AT_ONCE].result()
                    sending.append(executor.submit(self._send_part, upload_id, len(sending) + 1, chunk))
                    chunk = stream.read(PART_BYTES)
                parts = [part.result() for part in sending]
            self._complete(
                lambda: self._s3.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=self._key,
                    UploadId=upload_id,
                    MultipartUpload={"Parts": parts},
                    IfNoneMatch="*",
                )
            )
        except BaseException:
            # S3 charges for the parts of an unfinished upload until the bucket's lifecycle removes them.
            with suppress(ClientError, BotoCoreError):
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=self._key, UploadId=upload_id)
            raise

    def _send_part(self, upload_id: str, number: int, chunk: bytes) -> CompletedPartTypeDef:
        answer = self._s3.upload_part(
            Bucket=self._bucket, Key=self._key, UploadId=upload_id, PartNumber=number, Body=chunk
        )
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
        # botocore 1.36 and later sends this checksum with every part unless it is told not to.
        if "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        return part

    def _complete(self, request: Callable[[], object]) -> None:
        """Send the request that creates the object; a retry may find that the first try has created it."""
        try:
            request()
        except ClientError as error:
            if error.response["Error"]["Code"] not in _TAKEN:
                raise
            found = self._s3.head_object(Bucket=self._bucket, Key=self._key)
            if found["Metadata"].get(contract.MODEL_UPLOAD) != self._metadata[contract.MODEL_UPLOAD]:
                raise TakenError(
                    f"s3://{self._bucket}/{self._key}", bytes=found["ContentLength"], metadata=found["Metadata"]
                ) from error

    def _pack(self, write_end: int) -> None:
        with (
            os.fdopen(write_end, "wb") as pipe,
            gzip.GzipFile(fileobj=pipe, mode="wb", compresslevel=_GZIP_LEVEL) as packed,
            tarfile.open(fileobj=cast("IO[bytes]", _Counted(packed, self)), mode="w|") as tar,
        ):
            # Links are packed as the files that they point to, because unpacking accepts only files and folders. This
            # also applies to hard links.
            tar.dereference = True
            for path, inside in entries(self._folder, left_out=_say_left_out):
                tar.add(path, arcname=inside, recursive=False)


def entries(
    folder: Path,
    *,
    left_out: Callable[[Path], object] = lambda _path: None,
    name: str = "",
    above: tuple[Path, ...] = (),
) -> Iterator[tuple[Path, str]]:
    """
    List the files and folders of *folder* that are packed, with links resolved.

    Args:
        folder: The folder.
        left_out: Called with each path that is neither a file nor a folder, or that links to a folder above it.
        name: Path of *folder* in the archive, with a trailing slash. Default: the archive's root.
        above: The resolved folders above it. Default: none.

    Returns:
        Each entry's path, and its path in the archive.
    """
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        inside = f"{name}{path.name}"
        if path.is_dir() and path.resolve() not in above:
            yield path, inside
            yield from entries(path, left_out=left_out, name=f"{inside}/", above=above)
        elif path.is_file():
            yield path, inside
        else:
            left_out(path)


def _say_left_out(path: Path) -> None:
    _log.warning("%s is not packed: it is neither a file nor a folder, or links to a folder above it", path)


class _Counted:
    """The gzip stream, with a count of the bytes written to it."""

    def __init__(self, packed: gzip.GzipFile, upload: FolderUpload) -> None:
        self._packed = packed
        self._upload = upload

    def write(self, data: bytes) -> int:
        self._upload.packed_bytes += len(data)
        return self._packed.write(data)


class _Checked:
    """The archive's stream; it raises at its end if packing failed, so that no truncated archive looks complete."""

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
