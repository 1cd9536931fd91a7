"""Data channels: S3 prefixes, downloaded in parallel before the script starts."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.node.errors import RunError
from horovod_node.node.folders import Layout
from horovod_node.transfer.s3 import ARCHIVES, S3Address, refused, unwritten

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

FILES_AT_ONCE = 16
"""Files downloaded in parallel: one S3 connection reaches some 50-100 MB/s, an instance's network much more."""
_PARTS_AT_ONCE = 4
"""Ranges of one large file downloaded in parallel."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """
    One object of a channel.

    Args:
        key: Its key in the bucket.
        path: Its path, relative to the channel's folder.
        size: Size in bytes.
        etag: Its ETag.
        archived: Whether its storage class is one of `ARCHIVES`; a restored copy may exist.
    """

    key: str
    path: PurePosixPath
    size: int
    etag: str
    archived: bool = False


@dataclass
class _Marks:
    """Records completed files, one JSON line each, so that a restarted agent does not download them again."""

    file: Path
    known: dict[str, list[object]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        if self.file.exists():
            for line in self.file.read_text().splitlines():
                try:
                    self.known.update(json.loads(line))
                except ValueError:  # the line that a killed agent did not finish
                    continue

    def holds(self, remote: RemoteFile, local: Path) -> bool:
        return (
            self.known.get(str(remote.path)) == [remote.size, remote.etag]
            and local.is_file()
            and local.stat().st_size == remote.size
        )

    def add(self, remote: RemoteFile) -> None:
        with self.lock, self.file.open("a") as lines:
            lines.write(json.dumps({str(remote.path): [remote.size, remote.etag]}) + "\n")


def fetch_channels(s3: S3Client, *, data: Mapping[str, str], layout: Layout) -> int:
    """
    Download every channel into its folder, and return the number of bytes downloaded.

    A channel's address names a folder (`s3://bucket/digits`, with or without a trailing slash), a whole bucket or one
    object. A file that was downloaded before with the same size and ETag is not downloaded again.

    Raises:
        RunError: If a channel is empty or cannot be read, a key cannot be a path inside the channel's folder, or the
            disk is too small.
    """
    return sum(_fetch_channel(s3, name=name, uri=uri, layout=layout) for name, uri in sorted(data.items()))


def _fetch_channel(s3: S3Client, *, name: str, uri: str, layout: Layout) -> int:
    address, folder = S3Address.parse(uri), layout.channel(name)
    what = f"Data channel '{name}'"
    try:
        files = list(list_files(s3, address))
    except (ClientError, BotoCoreError) as error:
        raise refused(what, uri, error) from error
    if not files:
        raise RunError(contract.ERROR_DATA_NOT_FOUND, f"{what} is empty: {uri} holds no object.")
    _check_paths(files, what=what, uri=uri)
    folder.mkdir(parents=True, exist_ok=True)
    marks = _Marks(file=layout.fetched / f"{name}.jsonl")
    missing = [file for file in files if not marks.holds(file, folder / file.path)]
    # Files that S3 may refuse come first, so that a refusal does not end a download of hours.
    missing.sort(key=lambda file: not file.archived)
    _remove_others(folder, keep={folder / file.path for file in files} - {folder / file.path for file in missing})
    _check_room(missing, folder=folder, what=what)
    transfer = TransferConfig(max_concurrency=_PARTS_AT_ONCE)
    # Unfinished files are kept here, outside of the channel's folder, so that no script reads them.
    # Each fetch has a folder of its own, because downloads of a fetch that failed in this process may still be running.
    for left in layout.fetched.glob(f"{name}.halves-*"):
        shutil.rmtree(left, ignore_errors=True)
    halves = Path(tempfile.mkdtemp(prefix=f"{name}.halves-", dir=layout.fetched))

    def download(number: int, file: RemoteFile) -> None:
        half, local = halves / str(number), folder / file.path
        try:
            s3.download_file(address.bucket, file.key, str(half), Config=transfer)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise refused(what, f"s3://{address.bucket}/{file.key}", error) from error
        local.parent.mkdir(parents=True, exist_ok=True)
        half.replace(local)
        marks.add(file)

    executor = ThreadPoolExecutor(FILES_AT_ONCE)
    try:
        downloads = [executor.submit(download, number, file) for number, file in enumerate(missing)]
        for done in wait(downloads, return_when=FIRST_EXCEPTION).done:
            done.result()
    except OSError as error:
        raise unwritten(what, folder, error) from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return sum(file.size for file in missing)


def list_files(s3: S3Client, address: S3Address) -> Iterator[RemoteFile]:
    """
    List the objects of a channel; empty if there are none.

    Repeated slashes in a key count as one, as in file systems.
    """
    prefix = address.key if address.key.endswith("/") or not address.key else f"{address.key}/"
    empty = True
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            # The S3 console creates a "folder" as an empty object whose key ends with a slash.
            if not item["Key"].endswith("/"):
                empty = False
                yield _remote_file(item, path=item["Key"].removeprefix(prefix).lstrip("/"))
    if empty and prefix != address.key:
        # Keys are listed in order, so the key itself comes before any longer key with this prefix.
        first = s3.list_objects_v2(Bucket=address.bucket, Prefix=address.key, MaxKeys=1)
        for item in first.get("Contents", ()):
            if item["Key"] == address.key:
                yield _remote_file(item, path=PurePosixPath(address.key).name)


def _remote_file(item: ObjectTypeDef, *, path: str) -> RemoteFile:
    return RemoteFile(
        key=item["Key"],
        path=PurePosixPath(path),
        size=item["Size"],
        etag=item["ETag"],
        archived=item.get("StorageClass") in ARCHIVES,
    )


def _check_paths(files: list[RemoteFile], *, what: str, uri: str) -> None:
    """Refuse keys that cannot be paths in the channel's folder: S3 accepts almost any text as a key."""
    paths = Counter(file.path for file in files)
    for file in files:
        if paths[file.path] > 1:
            raise _no_folder(what, f"{uri} holds more than one key that would become '{file.path}'")
        if ".." in file.path.parts or not file.path.parts:
            raise RunError(
                contract.ERROR_INVALID_REQUEST,
                f"{what} would be written outside of its folder: {uri} holds the key '{file.key}'.",
            )
        if "\0" in file.key or any(len(os.fsencode(part)) > contract.FILE_NAME_LIMIT for part in file.path.parts):
            raise _no_folder(
                what,
                f"{uri} holds the key '{file.key}', of which a part is not a valid file name: at most "
                f"{contract.FILE_NAME_LIMIT} bytes and no NUL. Give that object another key",
            )
        for parent in file.path.parents:
            if parent in paths:
                raise _no_folder(what, f"{uri} holds both '{parent}' and '{file.path}'")


def _no_folder(what: str, why: str) -> RunError:
    return RunError(contract.ERROR_INVALID_REQUEST, f"{what} cannot be a folder: {why}.")


def _check_room(missing: list[RemoteFile], *, folder: Path, what: str) -> None:
    """Check that the disk can hold all missing files, before hours are spent on downloading most of them."""
    size, free = sum(file.size for file in missing), shutil.disk_usage(folder).free
    if size > free:
        raise unwritten(
            what, folder, OSError(errno.ENOSPC, f"{size:,} bytes are to be downloaded and {free:,} bytes are free")
        )


def _remove_others(folder: Path, *, keep: set[Path]) -> None:
    """Remove files of an earlier start that S3 no longer has, or has in another version."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in keep:
            path.unlink()
