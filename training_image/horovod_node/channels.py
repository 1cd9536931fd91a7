"""Data channels: S3 prefixes, downloaded in parallel before the script starts."""

from __future__ import annotations

import json
import shutil
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
from horovod_node.errors import RunError
from horovod_node.layout import Layout
from horovod_node.s3 import S3Address, refused

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FILES_AT_ONCE = 16
"""Downloads at a time; one S3 connection brings some 50-100 MB/s, an instance takes many."""
_PARTS_AT_ONCE = 4
"""Ranges of one large file at a time."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """
    One object of a channel.

    Args:
        key: Its key in the bucket.
        path: Where it goes, relative to the channel's folder.
        size: In bytes.
        etag: S3's tag of the content.
    """

    key: str
    path: PurePosixPath
    size: int
    etag: str


@dataclass
class _Marks:
    """Which files are complete: one JSON line each, so that a restarted agent loses nothing that is on the disk."""

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
    Download every channel into its folder, and give the number of bytes that came over the network.

    A channel's address names a folder (`s3://bucket/digits`, with or without a closing slash) or one object. A file
    that is there already, of the same size and with the same ETag when it was written, is not downloaded again.

    Raises:
        RunError: If a channel is empty or not there, or a key would leave the channel's folder.
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
    _remove_others(folder, keep={folder / file.path for file in files})
    marks = _Marks(file=layout.fetched / f"{name}.jsonl")
    missing = [file for file in files if not marks.holds(file, folder / file.path)]
    transfer = TransferConfig(max_concurrency=_PARTS_AT_ONCE)
    # A killed download leaves its half here, where no script looks.
    halves = layout.fetched / f"{name}.halves"
    shutil.rmtree(halves, ignore_errors=True)
    halves.mkdir()

    def download(number: int, file: RemoteFile) -> None:
        half, local = halves / str(number), folder / file.path
        s3.download_file(address.bucket, file.key, str(half), Config=transfer)
        local.parent.mkdir(parents=True, exist_ok=True)
        half.replace(local)
        marks.add(file)

    executor = ThreadPoolExecutor(FILES_AT_ONCE)
    try:
        downloads = [executor.submit(download, number, file) for number, file in enumerate(missing)]
        for done in wait(downloads, return_when=FIRST_EXCEPTION).done:
            done.result()
    except (ClientError, BotoCoreError, Boto3Error) as error:
        raise refused(what, uri, error) from error
    except OSError as error:
        raise RunError(contract.ERROR_NODE_FAILED, f"{what} could not be written to {folder}: {error}") from error
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return sum(file.size for file in missing)


def list_files(s3: S3Client, address: S3Address) -> Iterator[RemoteFile]:
    """List the objects of a channel; none when there is nothing."""
    prefix = address.key if address.key.endswith("/") else f"{address.key}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=address.bucket, Prefix=prefix)
    empty = True
    for page in pages:
        for item in page.get("Contents", ()):
            empty = False
            # Consoles make a "folder" out of an empty object whose key ends with a slash.
            if not item["Key"].endswith("/"):
                yield RemoteFile(
                    key=item["Key"],
                    path=PurePosixPath(item["Key"].removeprefix(prefix)),
                    size=item["Size"],
                    etag=item["ETag"],
                )
    if empty and not address.key.endswith("/"):
        # Of all keys that begin like this one, the key itself comes first.
        first = s3.list_objects_v2(Bucket=address.bucket, Prefix=address.key, MaxKeys=1)
        for item in first.get("Contents", ()):
            if item["Key"] == address.key:
                name = PurePosixPath(PurePosixPath(address.key).name)
                yield RemoteFile(key=item["Key"], path=name, size=item["Size"], etag=item["ETag"])


def _check_paths(files: list[RemoteFile], *, what: str, uri: str) -> None:
    """Refuse keys that no folder can hold: S3 keys are any text."""
    paths = Counter(file.path for file in files)
    for file in files:
        if paths[file.path] > 1:
            raise RunError(
                contract.ERROR_INVALID_REQUEST,
                f"{what} cannot be a folder: {uri} holds more than one key that would become '{file.path}'.",
            )
        if file.path.is_absolute() or ".." in file.path.parts:
            raise RunError(
                contract.ERROR_INVALID_REQUEST,
                f"{what} would be written outside of its folder: {uri} holds the key '{file.key}'.",
            )
        for parent in file.path.parents:
            if parent in paths:
                raise RunError(
                    contract.ERROR_INVALID_REQUEST,
                    f"{what} cannot be a folder: {uri} holds both '{parent}' and '{file.path}'.",
                )


def _remove_others(folder: Path, *, keep: set[Path]) -> None:
    """Take out what an earlier start left and S3 no longer has."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in keep:
            path.unlink()
