"""An archive in S3, read once more: what nobody could unpack is no model."""

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
"""What a download may fail with."""
_TRIES: Final = 3
"""botocore repeats a request, but not the reading of its answer."""


class ReadBack:
    """
    Reads an archive and writes nothing.

    Args:
        s3: boto3 client.
        bucket: Where the archive is.
        key: Its key there.
    """

    def __init__(self, s3: S3Client, *, bucket: str, key: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._key = key
        self.bytes = 0
        """Bytes that were read so far."""

    def run(self) -> None:
        """
        Read it to its end.

        Raises:
            ArchiveRefused: If `contract.unpack_archive` would refuse it.
            READ_ERRORS: If S3 does not give it.
        """
        for left in reversed(range(_TRIES)):
            body = self._s3.get_object(Bucket=self._bucket, Key=self._key)["Body"]
            try:
                contract.check_archive(cast("IO[bytes]", _Counted(body, self)))
            except READ_ERRORS as error:
                if not left:
                    raise
                _log.warning("s3://%s/%s is read again: %s", self._bucket, self._key, error)
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
