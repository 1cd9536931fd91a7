"""Data of this machine, uploaded to where a run's nodes find it; once, as long as it is the same."""

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
"""In the data bucket, of all that was uploaded from here; below it, data lies under its own digest."""
KEY_LIMIT_BYTES: Final = 1024
"""S3 User Guide, "Naming Amazon S3 objects": a key has at most 1,024 bytes of UTF-8, its prefix among them."""
UPLOAD: Final = Purpose(verb="upload", remedy="remove it, or keep it outside of the data")

_READERS: Final = 4
"""Files that are read at a time: one disk takes no more, and SHA-256 keeps as many processors busy."""
_READ_BYTES: Final = 1024**2
_REQUESTS_AT_ONCE: Final = 10
"""Of files and of parts of large files together: as many as a boto3 client has connections."""


@dataclass(frozen=True, kw_only=True)
class DataProgress:
    """
    How far data is on its way to S3.

    Args:
        channel: The data channel.
        doing: `reading` (to see whether S3 has the same), `uploading`, or in the end `uploaded` or `there`.
        done_bytes: Bytes that were read, or have been sent.
        total_bytes: Bytes that are to be read, or sent.
        files: Files that the data has, and of which the missing ones are sent.
        address: Where they go; empty while they are read.
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
    """A file as it was when it was found."""

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
    Upload a file or a folder, unless the very same is there, and give the S3 address of the folder that holds it.

    The address has the SHA-256 digest of all names and contents in it, so the same data has the same address. An
    object is there as a whole or not at all (S3 User Guide, "Amazon S3 data consistency model": updates to a single key
    are atomic), so an upload that was cut off goes on with the files that are missing. Links are followed, and empty
    folders left out (`walk_files`). An empty file is data.

    Args:
        path: The file or the folder; `~` is the user's own folder.
        channel: Of the data, for the sentences.
        bucket: Takes the files.
        s3: Client of the bucket's Region.
        watcher: Told how far it is, from several threads, but not at the same time. Default: nobody is told.
        dry_run: Upload nothing; the data must be there already. Default: what is missing is uploaded.

    Raises:
        InvalidInput: If there is no file, or one that cannot be read or uploaded, or one changes meanwhile; with
            *dry_run*, if something is missing.
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
                f"'data.{channel}' is not in S3 yet, and a dry run uploads nothing: train once without it, or give the "
                "S3 address of data that is there"
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
    if not os.fspath(given) or not (path.exists() or path.is_symlink()):  # pathlib takes '' for the present folder
        raise InvalidInput(
            f"'data.{channel}' must be a file or a folder of this machine, or an address like s3://bucket/folder/, got "
            f"'{shown(path) if os.fspath(given) else ''}', which is not there"
        )
    check_name(path, purpose=UPLOAD)
    if not path.is_dir():
        check_file(path, purpose=UPLOAD)
        return [_File.at(path, name=path.name)]
    files = [_File.at(file, name=file.relative_to(path).as_posix()) for file in walk_files(path, purpose=UPLOAD)]
    if not files:
        raise InvalidInput(f"'data.{channel}' is empty: the folder '{shown(path)}' holds no file")
    return files


def _read(files: Sequence[_File], *, told: _Telling) -> list[_File]:
    """Tell the content of each file by its digest."""
    told.begin("reading", total_bytes=sum(file.size for file in files), files=len(files))
    stopped = Event()

    def read(file: _File) -> _File:
        digest = hashlib.sha256()
        try:
            with file.path.open("rb") as opened:
                while not stopped.is_set() and (piece := opened.read(_READ_BYTES)):
                    digest.update(piece)
                    told.add(len(piece))
        except OSError as error:  # one of reading does not say of which file
            raise OSError(error.errno, error.strerror, str(file.path)) from error
        _check_unchanged(file)
        return replace(file, digest=digest.hexdigest())

    with ThreadPoolExecutor(_READERS) as readers:
        try:
            return list(readers.map(read, files))
        except BaseException:  # Ctrl-C, too: what is being read may be large
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
                f"cannot upload '{file.path}', whose path in the data has {size - len(prefix)} bytes and may have "
                f"{KEY_LIMIT_BYTES - len(prefix)} in S3: shorten it"
            )


def _sizes(s3: S3Client, *, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """List what is there, on every page."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            yield item["Key"], item["Size"]


def _send(files: Sequence[_File], *, bucket: str, prefix: str, s3: S3Client, told: _Telling) -> None:
    """Send files as `aws s3 sync` does: several at a time, large ones in parts; the first that fails ends it."""
    # Here and not above: whoever imports this package would wait for boto3.
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
                # It may be half of the old content and half of the new one, under the digest of the old.
                s3.delete_object(Bucket=bucket, Key=prefix + file.name)
                raise


def _check_unchanged(file: _File) -> None:
    if _File.at(file.path, name=file.name) != file:
        raise InvalidInput(
            f"cannot upload '{file.path}', which was changed at the same time: try again when nothing writes to it"
        )


class _Telling:
    """Tells a watcher, one thread at a time."""

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
