"""The codes of AWS's errors, read without botocore's classes."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, NoRegionError

from horovod_client.aws.error_codes import code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject"), "AccessDenied"),
        (ClientError({}, "GetObject"), ""),
        (ConnectionClosedError(endpoint_url="https://s3"), ""),
        (EndpointConnectionError(endpoint_url="https://s3"), ""),
        (NoRegionError(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_aws_answered_has_a_code(error: Exception, code: str) -> None:
    """An error that is no answer of AWS has no code, even if botocore attached another kind of response."""
    assert code_of(error) == code
