"""Uploads one checkpoint to S3: first its files, and when all of them are there, its manifest."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event
from typing import IO, TYPE_CHECKING, cast

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node.checkpoints.manifest import CheckpointFile, CheckpointName, Manifest, check_path, read_manifest
from horovod_node.checkpoints.snapshot import ChangedError, FileState, Snapshot

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

PART_BYTES = 32 * 1024**2
"""Size of a part. S3 allows 10,000 parts: files of up to 320 GB. At most ten are in memory (s3transfer's default)."""
_REQUESTS_AT_ONCE = 8
"""Some 500 MB/s, if the instance has them. The script's downloads and Horovod need the network, too."""
_DELETE_LIMIT = 1000
"""Most keys of one DeleteObjects request."""


class StoppedError(Exception):
    """The mirror was closed in the middle of an upload."""


class CheckpointUpload:
    """
    Uploads the files of *snapshot* as one checkpoint.

    Args:
        s3: boto3 client.
        bucket: Bucket of the checkpoint.
        name: Name of the checkpoint.
        folder: Folder with the files of the snapshot.
        snapshot: The files.
        step: Training step of the checkpoint; `None` if it is unknown.
        part_bytes: Larger files are uploaded in parts of this size.
        stopped: When it is set, the upload stops.
    """

    def __init__(
        self,
        s3: S3Client,
        *,
        bucket: str,
        name: CheckpointName,
        folder: Path,
        snapshot: Snapshot,
        step: int | None,
        part_bytes: int,
        stopped: Event,
    ) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._name = name
        self._step = step
        self._part_bytes = part_bytes
        self._stopped = stopped
        self._readers = [_Reader(folder / file.path, file, stopped) for file in snapshot]

    def run(self) -> Manifest:
        """
        Upload the checkpoint; when this returns, it is complete.

        Raises:
            ChangedError: If a file was overwritten meanwhile.
            ManifestError: If a file has a name that no checkpoint can hold.
            StoppedError: If the upload was stopped.
        """
        for reader in self._readers:
            check_path(reader.state.path)
        config = TransferConfig(
            multipart_threshold=self._part_bytes,
            multipart_chunksize=self._part_bytes,
            max_concurrency=_REQUESTS_AT_ONCE,
            # The CRT client, which boto3 prefers on large instances if it is installed, cannot read these streams.
            preferred_transfer_client="classic",
        )
        with create_transfer_manager(self._s3, config) as manager:
            uploads = [
                manager.upload(cast("IO[bytes]", reader), self._bucket, self._name.file_key(reader.state.path))
                for reader in self._readers
            ]
            for upload in uploads:
                upload.result()
        manifest = Manifest(
            name=self._name,
            step=self._step,
            created_at=int(time.time()),
            files=tuple(reader.file() for reader in self._readers),
        )
        if self._stopped.is_set():
            raise StoppedError
        self._complete(manifest)
        return manifest

    def withdraw(self) -> None:
        """Delete the objects of a checkpoint that failed. If that fails, too, it stays incomplete in S3."""
        try:
            # The manifest may exist although its request failed: the response may have been lost.
            if delete(self._s3, bucket=self._bucket, keys=[self._name.manifest_key]):
                delete(
                    self._s3,
                    bucket=self._bucket,
                    keys=[self._name.file_key(reader.state.path) for reader in self._readers],
                )
        except (ClientError, BotoCoreError, Boto3Error, ValueError) as error:
            _log.info("%s is not complete and was not removed: %s", self._name.prefix, error)

    def _complete(self, manifest: Manifest) -> None:
        try:
            self._s3.put_object(
                Bucket=self._bucket,
                Key=self._name.manifest_key,
                Body=manifest.to_json().encode(),
                ContentType="application/json",
                # Nobody else writes this checkpoint. If somebody did, neither may overwrite the other's manifest.
                IfNoneMatch="*",
            )
        except ClientError as error:
            # A retry finds the manifest of the first request if that request's response was lost.
            if (
                error.response["Error"]["Code"] != "PreconditionFailed"
                or read_manifest(self._s3, bucket=self._bucket, name=self._name) != manifest
            ):
                raise


def delete(s3: S3Client, *, bucket: str, keys: Iterable[str]) -> bool:
    """Delete objects, a thousand per request; return whether S3 deleted all of them."""
    deleted = True
    for some in _in_thousands(list(keys)):
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True})
        for error in answer.get("Errors", ()):
            deleted = False
            _log.warning("s3://%s/%s was not deleted: %s", bucket, error.get("Key"), error.get("Message"))
    return deleted


def _in_thousands(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _DELETE_LIMIT):
        yield keys[start : start + _DELETE_LIMIT]


class _Reader:
    """A file's stream, opened at the first read: a checkpoint may have more files than a process can open."""

    def __init__(self, path: Path, state: FileState, stopped: Event) -> None:
        self.state = state
        self._path = path
        self._stopped = stopped
        self._stream: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._complete = False

    def read(self, size: int = -1) -> bytes:
        if self._stopped.is_set():
            raise StoppedError
        if self._complete:
            return b""
        if self._stream is None:
            self._stream = self._path.open("rb")
            self._check()
        chunk = self._stream.read(size)
        self._digest.update(chunk)
        if size < 0 or len(chunk) < size:
            self._check()
            self._stream.close()
            self._complete = True
        return chunk

    def file(self) -> CheckpointFile:
        if not self._complete:
            raise ChangedError(f"{self.state.path} was not read to its end")
        return CheckpointFile(
            path=self.state.path,
            bytes=self.state.bytes,
            sha256=self._digest.hexdigest(),
            mtime_ns=self.state.mtime_ns,
        )

    def _check(self) -> None:
        """Check that the file is as in the snapshot, before the first byte and after the last."""
        assert self._stream is not None
        if FileState.of(self.state.path, os.fstat(self._stream.fileno())) != self.state:
            self._stream.close()
            raise ChangedError(
                f"{self.state.path} was written over during its upload; write under a hidden name, and rename"
            )
