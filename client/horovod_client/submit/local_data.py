"""Upload of local data to the data bucket; unchanged data is uploaded only once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final

from horovod_client.errors import InvalidInput
from horovod_client.submit.files import Purpose, check_file, check_name, shown, walk_files

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from s3transfer.futures import TransferFuture

PREFIX: Final = "local-data/"
"""Prefix of all uploads in the data bucket; each upload is below its own digest."""
KEY_LIMIT_BYTES: Final = 1024
"""S3 User Guide, "Naming Amazon S3 objects": a key, including its prefix, has at most 1,024 bytes of UTF-8."""
UPLOAD: Final = Purpose(verb="upload", remedy="remove it, or move it out of the data")

_READERS: Final = 4
"""Files that are read in parallel: enough to keep one disk busy, each with a CPU core for SHA-256."""
_READ_BYTES: Final = 1024**2
_REQUESTS_AT_ONCE: Final = 10
"""Parallel uploads of files and parts of large files: as many as a boto3 client has connections."""


@dataclass(frozen=True, kw_only=True)
class DataProgress:
    """
    Progress of an upload.

    Args:
        channel: Name of the data channel.
        doing: `reading` (to compute digests), `uploading`, and at the end `uploaded` or `there` (in S3 already).
        done_bytes: Bytes that have been read or uploaded.
        total_bytes: Bytes to read or upload.
        files: Files to read or upload; at the end those uploaded or found.
        address: S3 address of the data; empty during `reading`.
    """

    channel: str
    doing: str
    done_bytes: int
    total_bytes: int
    files: int
    address: str = ""


Watcher = Callable[[DataProgress], object]


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file with its size and time when it was found."""

    name: str
    path: Path
    size: int
    changed_ns: int
    digest: str = field(default="", compare=False)

    @classmethod
    def at(cls, path: Path, *, name: str) -> _File:
        found = path.stat()
        return cls(name=name, path=path, size=found.st_size, changed_ns=found.st_mtime_ns)


def upload_data(
    path: str | os.PathLike[str],
    *,
    channel: str,
    bucket: str,
    s3: S3Client,
    watcher: Watcher = lambda _progress: None,
    dry_run: bool = False,
) -> str:
    """
    Upload a file or a folder, unless the same data is in S3 already, and return the S3 address of its folder there.

    The address contains the SHA-256 digest of all names and contents, so the same data has the same address. An object
    exists completely or not at all (S3 User Guide, "Amazon S3 data consistency model": updates to a single key are
    atomic), so an interrupted upload continues with the missing files. Links are followed, and empty folders left out
    (`walk_files`). Empty files are uploaded.

    Args:
        path: Path of the file or the folder; `~` is the user's home.
        channel: Name of the data channel, for errors.
        bucket: Bucket for the files.
        s3: Client of the bucket's Region.
        watcher: Called with the progress, from several threads but never concurrently. Default: none.
        dry_run: Upload nothing; the data must be in S3 already. Default: missing files are uploaded.

    Raises:
        InvalidInput: If there is no file, or if a file cannot be read or uploaded, or changes meanwhile; with
            *dry_run*, if a file is missing in S3.
    """
    told = _Telling(watcher, channel=channel)
    try:
        files = _read(_find(path, channel=channel), told=told)
        prefix = f"{PREFIX}{_digest(files)}/"
        _check_keys(files, prefix=prefix)
        address = f"s3://{bucket}/{prefix}"
        there = dict(_sizes(s3, bucket=bucket, prefix=prefix))
        missing = [file for file in files if there.get(prefix + file.name) != file.size]
        if missing and dry_run:
            raise InvalidInput(
                f"'data.{channel}' is not in S3 yet, and a dry run uploads nothing: run once without it, or give the "
                "S3 address of existing data"
            )
        if missing:
            told.begin("uploading", total_bytes=sum(file.size for file in missing), files=len(missing), address=address)
            _send(missing, bucket=bucket, prefix=prefix, s3=s3, told=told)
        told.begin("uploaded" if missing else "there", files=len(missing or files), address=address)
    except OSError as error:
        where = shown(Path(error.filename or path))
        raise InvalidInput(f"'data.{channel}' cannot be read at '{where}': {error.strerror}") from error
    return address


def _find(given: str | os.PathLike[str], *, channel: str) -> list[_File]:
    path = Path(given).expanduser()
    if not os.fspath(given) or not (path.exists() or path.is_symlink()):  # pathlib takes '' for the current folder
        raise InvalidInput(
            f"'data.{channel}' must be a file or folder on this machine, or an address like s3://bucket/folder/, got "
            f"'{shown(path) if os.fspath(given) else ''}', which does not exist"
        )
    check_name(path, purpose=UPLOAD)
    if not path.is_dir():
        check_file(path, purpose=UPLOAD)
        return [_File.at(path, name=path.name)]
    files = [_File.at(file, name=file.relative_to(path).as_posix()) for file in walk_files(path, purpose=UPLOAD)]
    if not files:
        raise InvalidInput(f"'data.{channel}' is empty: the folder '{shown(path)}' has no file")
    return files


def _read(files: Sequence[_File], *, told: _Telling) -> list[_File]:
    """Compute the digest of each file."""
    told.begin("reading", total_bytes=sum(file.size for file in files), files=len(files))
    stopped = Event()

    def read(file: _File) -> _File:
        digest = hashlib.sha256()
        try:
            with file.path.open("rb") as opened:
                while not stopped.is_set() and (piece := opened.read(_READ_BYTES)):
                    digest.update(piece)
                    told.add(len(piece))
        except OSError as error:  # an error of read() does not name the file
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        _check_unchanged(file)
        return replace(file, digest=digest.hexdigest())

    with ThreadPoolExecutor(_READERS) as readers:
        try:
            return list(readers.map(read, files))
        except BaseException:  # also Ctrl-C, because the files may be large
            stopped.set()
            readers.shutdown(cancel_futures=True)
            raise


def _digest(files: Sequence[_File]) -> str:
    lines = (f"{file.name}\0{file.digest}\0" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _check_keys(files: Sequence[_File], *, prefix: str) -> None:
    for file in files:
        size = len(f"{prefix}{file.name}".encode())
        if size > KEY_LIMIT_BYTES:
            raise InvalidInput(
                f"cannot upload '{file.path}': its path in the data must have at most {KEY_LIMIT_BYTES - len(prefix)} "
                f"bytes, got {size - len(prefix)}; shorten it"
            )


def _sizes(s3: S3Client, *, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """List the key and size of every object below *prefix*."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            yield item["Key"], item["Size"]


def _send(files: Sequence[_File], *, bucket: str, prefix: str, s3: S3Client, told: _Telling) -> None:
    """Upload files as `aws s3 sync` does: in parallel, large ones in parts; the first failure ends the upload."""
    # Imported here because boto3 would slow down the import of this package.
    from boto3.s3.transfer import ProgressCallbackInvoker, TransferConfig, create_transfer_manager

    config = TransferConfig(max_concurrency=_REQUESTS_AT_ONCE, preferred_transfer_client="classic")
    sent: list[tuple[_File, TransferFuture]] = []
    with create_transfer_manager(s3, config) as transfers:  # cancels the others when one has failed
        for file in files:
            _check_unchanged(file)
            watch: list[Any] = [ProgressCallbackInvoker(told.add)]
            sent.append((file, transfers.upload(str(file.path), bucket, prefix + file.name, subscribers=watch)))
        for file, transfer in sent:
            transfer.result()
            try:
                _check_unchanged(file)
            except InvalidInput:
                # The object may mix old and new content under the digest of the old content.
                s3.delete_object(Bucket=bucket, Key=prefix + file.name)
                raise


def _check_unchanged(file: _File) -> None:
    if _File.at(file.path, name=file.name) != file:
        raise InvalidInput(
            f"cannot upload '{file.path}', which changed during the upload: try again when nothing writes to it"
        )


class _Telling:
    """Calls a watcher, from one thread at a time."""

    def __init__(self, watcher: Watcher, *, channel: str) -> None:
        self._watcher = watcher
        self._lock = Lock()
        self._progress = DataProgress(channel=channel, doing="", done_bytes=0, total_bytes=0, files=0)

    def begin(self, doing: str, *, total_bytes: int = 0, files: int, address: str = "") -> None:
        with self._lock:
            self._progress = replace(
                self._progress, doing=doing, done_bytes=0, total_bytes=total_bytes, files=files, address=address
            )
            self._watcher(self._progress)

    def add(self, count: int) -> None:
        with self._lock:
            self._progress = replace(self._progress, done_bytes=self._progress.done_bytes + count)
            self._watcher(self._progress)
