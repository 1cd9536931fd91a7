"""The user's script: fetched as an archive, unpacked without trusting it."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

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


def fetch_source(s3: S3Client, *, uri: str, entry_point: str, into: Path) -> None:
    """
    Unpack the archive at *uri* into the folder *into*.

    Raises:
        RunError: If it is not there, too large, not a .tar.gz, wants to write elsewhere, or lacks *entry_point*.
    """
    address = S3Address.parse(uri)
    with tempfile.TemporaryFile() as archive:
        try:
            answer = s3.get_object(Bucket=address.bucket, Key=address.key)
            if answer["ContentLength"] > SOURCE_LIMIT_BYTES:
                raise _refusal(
                    f"'source' is {answer['ContentLength']:,} bytes, the most is {SOURCE_LIMIT_BYTES:,}: "
                    "put data into a data channel"
                )
            for chunk in answer["Body"].iter_chunks(1024**2):
                archive.write(chunk)
        except (ClientError, BotoCoreError) as error:
            raise refused("The script's archive, 'source',", uri, error) from error
        archive.seek(0)
        _unpack(archive, uri=uri, into=into)
    if not (into / entry_point).is_file():
        scripts = sorted(str(path.relative_to(into)) for path in into.rglob("*.py"))
        held = f"its Python files are {', '.join(scripts[:10])}" if scripts else "it holds no Python file"
        raise _refusal(f"'entry_point' is {entry_point}, which the archive {uri} does not hold; {held}")


def _unpack(archive: IO[bytes], *, uri: str, into: Path) -> None:
    unpacked = 0
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for member in tar:
                unpacked += member.size
                if unpacked > UNPACKED_LIMIT_BYTES:
                    raise _refusal(f"'source' unpacks to more than {UNPACKED_LIMIT_BYTES:,} bytes: {uri}")
                # The data filter refuses absolute paths, paths and links that lead out, and devices (PEP 706).
                tar.extract(member, into, filter="data")
    except tarfile.FilterError as error:
        raise _refusal(f"'source' would write outside of its folder: {error}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _refusal(f"'source' must be a .tar.gz archive, but {uri} could not be unpacked: {error}") from error


def _refusal(sentence: str) -> RunError:
    return RunError(contract.ERROR_INVALID_REQUEST, f"{sentence}.")
