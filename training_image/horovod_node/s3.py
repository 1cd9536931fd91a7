"""Addresses in S3, and what S3's refusals mean for a run."""

from __future__ import annotations

from dataclasses import dataclass

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from horovod_node import contract
from horovod_node.errors import RunError

_MISSING = ("404", "NoSuchBucket", "NoSuchKey")


@dataclass(frozen=True, kw_only=True)
class S3Address:
    """
    A place in S3.

    Args:
        bucket: Name of the bucket.
        key: Key or prefix in it.
    """

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Address:
        """Take `s3://bucket/key` apart; the request's check made sure of its form."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return cls(bucket=bucket, key=key)


def refused(what: str, uri: str, error: ClientError | BotoCoreError | Boto3Error) -> RunError:
    """Turn S3's *error* about *what* at *uri* into the error that ends the run."""
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in _MISSING:
        return RunError(contract.ERROR_DATA_NOT_FOUND, f"{what} is not there: S3 has no {uri}.")
    return RunError(contract.ERROR_NODE_FAILED, f"{what} could not be read from {uri}: {error}")
