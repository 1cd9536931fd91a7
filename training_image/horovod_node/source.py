"""The user's script: fetched as an archive, unpacked without trusting it."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.errors import RunError
from horovod_node.s3 import S3Address, refused

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SOURCE_LIMIT_BYTES = 512 * 1024**2
"""A script's folder is text; more than this, packed, is data in the wrong place."""
UNPACKED_LIMIT_BYTES = 4 * 1024**3
"""Keeps a small archive from filling the disk."""
_CHUNK_BYTES = 1024**2


def fetch_source(s3: S3Client, *, uri: str, entry_point: str, into: Path) -> None:
    """
    Unpack the archive at *uri* into the folder *into*.

    Where its key names a digest (`contract.source_key`), the content is compared with it before anything is unpacked:
    what a run trains is what its request names, whoever may write to the bucket.

    Raises:
        RunError: If it is not there, too large, not what its key names, not a .tar.gz, wants to write elsewhere, or
            lacks *entry_point*.
    """
    address = S3Address.parse(uri)
    with tempfile.TemporaryFile() as archive:
        try:
            size = s3.head_object(Bucket=address.bucket, Key=address.key)["ContentLength"]
            if size > SOURCE_LIMIT_BYTES:
                raise _refusal(
                    f"'source' is {size:,} bytes, the most is {SOURCE_LIMIT_BYTES:,}: put data into a data channel"
                )
            s3.download_fileobj(address.bucket, address.key, archive)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise refused("The script's archive, 'source',", uri, error) from error
        named = re.fullmatch(contract.SOURCE_PATTERN, address.key)
        if named:
            _verify(archive, uri=uri, digest=named[1])
        archive.seek(0)
        _unpack(archive, uri=uri, into=into)
    if not (into / entry_point).is_file():
        scripts = sorted(str(path.relative_to(into)) for path in into.rglob("*.py"))
        held = f"its Python files are {', '.join(scripts[:10])}" if scripts else "it holds no Python file"
        raise _refusal(f"'entry_point' is {entry_point}, which the archive {uri} does not hold; {held}")


def _verify(archive: IO[bytes], *, uri: str, digest: str) -> None:
    """Compare the archive with its digest, which is that of the tar before its compression."""
    archive.seek(0)
    found, seen = hashlib.sha256(), 0
    try:
        with gzip.GzipFile(fileobj=archive) as content:
            while chunk := content.read(_CHUNK_BYTES):
                seen += len(chunk)
                if seen > UNPACKED_LIMIT_BYTES:
                    raise _refusal(f"'source' unpacks to more than {UNPACKED_LIMIT_BYTES:,} bytes: {uri}")
                found.update(chunk)
    except (EOFError, OSError, zlib.error) as error:
        raise _refusal(f"'source' must be a .tar.gz archive, but {uri} could not be unpacked: {error}") from error
    if found.hexdigest() != digest:
        raise _refusal(
            f"'source' is not what was packaged: {uri} must hold an archive with the SHA-256 digest {digest}, but that "
            f"of its content is {found.hexdigest()}"
        )


def _unpack(archive: IO[bytes], *, uri: str, into: Path) -> None:
    """Write the archive's files and folders. Debian 12's Python 3.11.2 has no extraction filters (PEP 706) for this."""
    unpacked = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise _refusal(f"'source' would write outside of its folder: {uri} holds '{member.name}'")
                if not (member.isreg() or member.isdir()):
                    raise _refusal(
                        f"'source' may hold files and folders only: '{member.name}' in {uri} is a link or a device"
                    )
                unpacked += member.size
                if unpacked > UNPACKED_LIMIT_BYTES:
                    raise _refusal(f"'source' unpacks to more than {UNPACKED_LIMIT_BYTES:,} bytes: {uri}")
                _write(tar, member, into / path)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _refusal(f"'source' must be a .tar.gz archive, but {uri} could not be unpacked: {error}") from error


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    if content is not None:
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)


def _refusal(sentence: str) -> RunError:
    return RunError(contract.ERROR_INVALID_REQUEST, f"{sentence}.")
