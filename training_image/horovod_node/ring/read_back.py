"""Reading an uploaded archive back from S3, to check that it can be unpacked."""

from __future__ import annotations

import logging
from typing import IO, TYPE_CHECKING, Final, cast

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from horovod_node import contract

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

READ_ERRORS: Final = (ClientError, BotoCoreError, HTTPError, OSError)
"""Exceptions that a download may raise."""
_TRIES: Final = 3
"""botocore retries a request, but not the reading of its response body."""


class ReadBack:
    """
    Reads an archive and writes nothing.

    Args:
        s3: boto3 client.
        bucket: Bucket of the archive.
        key: Key of the archive.
    """

    def __init__(self, s3: S3Client, *, bucket: str, key: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self.bytes = 0
        """Bytes read so far."""

    def run(self) -> None:
        """
        Read the whole archive.

        Raises:
            ArchiveRefused: If `contract.unpack_archive` would refuse it.
            READ_ERRORS: If it cannot be read from S3.
        """
        for left in reversed(range(_TRIES)):
            body = self._s3.get_object(Bucket=self._bucket, Key=self._key)["Body"]
            try:
                contract.check_archive(cast("IO[bytes]", _Counted(body, self)))
            except READ_ERRORS as error:
                if not left:
                    raise
                _log.warning("reading s3://%s/%s again after an error: %s", self._bucket, self._key, error)
            else:
                return


class _Counted:
    def __init__(self, body: StreamingBody, counter: ReadBack) -> None:
        self._body = body
        self._counter = counter

    def read(self, size: int = -1) -> bytes:
        chunk = self._body.read(size if size >= 0 else None)
        self._counter.bytes += len(chunk)
        return chunk
