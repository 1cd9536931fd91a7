"""The user's script: downloaded as an archive and unpacked without trusting it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.node.errors import RunError
from horovod_node.transfer.s3 import S3Address, refused

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SOURCE_LIMIT_BYTES = 512 * 1024**2
"""Largest archive: a script's folder is text, and more than this is data that belongs in a data channel."""
UNPACKED_LIMIT_BYTES = 4 * 1024**3
"""Largest unpacked size, so that a small archive cannot fill the disk."""


def fetch_source(s3: S3Client, *, uri: str, entry_point: str, into: Path) -> None:
    """
    Unpack the archive at *uri* into the empty folder *into*.

    If its key contains a digest (`contract.source_key`), the content must match it. So a run trains exactly what its
    request names, even if others can write to the bucket.

    Raises:
        RunError: If the archive cannot be read, is too large, does not match its digest, lacks *entry_point*, or
            `contract.unpack_archive` refuses it.
        OSError: If the disk is full.
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
        archive.seek(0)
        try:
            digest = contract.unpack_archive(archive, into=into, most_bytes=UNPACKED_LIMIT_BYTES)
        except contract.ArchiveRefused as refusal:
            raise _refusal(
                f"'source' must be a .tar.gz of a script's folder, but {uri} was refused: {refusal}"
            ) from refusal
    named = re.fullmatch(contract.SOURCE_PATTERN, address.key)
    if named and named[1] != digest:
        raise _refusal(
            f"'source' is not what was packaged: {uri} must hold an archive with the SHA-256 digest {named[1]}, but "
            f"that of its content is {digest}"
        )
    if not (into / entry_point).is_file():
        scripts = sorted(str(path.relative_to(into)) for path in into.rglob("*.py"))
        held = f"its Python files are {', '.join(scripts[:10])}" if scripts else "it holds no Python file"
        raise _refusal(f"'entry_point' is {entry_point}, which the archive {uri} does not hold; {held}")


def _refusal(sentence: str) -> RunError:
    return RunError(contract.ERROR_INVALID_REQUEST, f"{sentence}.")
