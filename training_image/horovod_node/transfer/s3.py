"""Addresses in S3, and the run's errors for S3's errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.node.errors import RunError
from horovod_node.node.failure import disk_full, is_disk_full

ARCHIVES: Final = ("GLACIER", "DEEP_ARCHIVE")
"""
Storage classes that must be restored before they can be read (S3 API Reference, "GetObject"). A restored copy can be
read, and an INTELLIGENT_TIERING object may be archived, so only the answer to a read is certain.
"""
_ARCHIVED: Final = "InvalidObjectState"
_MISSING: Final = ("404", "NoSuchBucket", "NoSuchKey")
_DENIED: Final = ("403", "AccessDenied", "AllAccessDisabled")
"""HeadObject's response has no body, so its error code is the HTTP status (S3 API Reference, "HeadObject")."""
_KMS: Final = "KMS."
"""Prefix of KMS's error codes (S3 API Reference, "Error responses", "List of SSE-KMS error codes")."""
_KMS_MAY_RECOVER: Final = ("KMS.InternalException", "KMS.ThrottlingException")
_PERMANENT: Final = ("InvalidBucketName", "KeyTooLongError", "MethodNotAllowed", "PermanentRedirect")


@dataclass(frozen=True, kw_only=True)
class S3Address:
    """
    A bucket and a key or prefix in it.

    Args:
        bucket: Name of the bucket.
        key: Key or prefix in it.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Address:
        """Parse `s3://bucket/key`; the check of the request has validated its form."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return cls(bucket=bucket, key=key)


def refused(what: str, uri: str, error: ClientError | BotoCoreError | Boto3Error, *, to: str = "read") -> RunError:
    """
    Convert S3's *error* into the run's error: one that may be transient lets the run restart, any other ends it.

    Args:
        what: The subject of the error's sentence, for people.
        uri: Address of the object or prefix.
        error: The error of the S3 call.
        to: The operation: `read` or `uploaded`. Default: `read`.
    """
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if code in _MISSING and to == "read":
        return RunError(contract.ERROR_DATA_NOT_FOUND, f"{what} is not there: S3 has no {uri}.")
    if code == _ARCHIVED:
        return RunError(
            contract.ERROR_STORAGE_REFUSED,
            f"{what} is archived: {uri} cannot be {to} before it is restored or copied to another storage class, for "
            "example with aws s3api restore-object or aws s3 cp.",
        )
    if code in _DENIED:
        return RunError(
            contract.ERROR_STORAGE_REFUSED,
            f"{what} cannot be {to}: S3 denies this training's nodes access to {uri} ({error}). Grant it to their role "
            "(for data: 'data_buckets' of HorovodTraining); a policy of the bucket or of its KMS key may deny it, too.",
        )
    if code.startswith(_KMS) and code not in _KMS_MAY_RECOVER:
        return RunError(
            contract.ERROR_STORAGE_REFUSED,
            f"{what} cannot be {to}: KMS denies the use of the key of {uri} ({error}). The key must exist and be "
            "enabled, and the nodes' role must be allowed to use it.",
        )
    for_good = code in _PERMANENT or code in _MISSING
    return RunError(
        contract.ERROR_STORAGE_REFUSED if for_good else contract.ERROR_NODE_FAILED,
        f"{what} could not be {to} {'from' if to == 'read' else 'to'} {uri}: {error}",
    )


def unwritten(what: str, folder: Path, error: OSError) -> RunError:
    """Convert the file system's *error* about *what* into the run's error; a full disk ends the run."""
    if is_disk_full(error):
        return disk_full(f"{what} does not fit on the node's disk at {folder}", error)
    return RunError(contract.ERROR_NODE_FAILED, f"{what} could not be written to {folder}: {error}")
