"""Explanations of failed AWS calls whose result the client can do without."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from horovod_client.aws.error_codes import DENIED, code_of

AwsError = (ClientError, BotoCoreError, ResponseParserError)
"""Errors of a boto3 call that AWS refuses, that cannot reach AWS, or that another server answers."""


Unreachable = (ConnectionError, HTTPClientError)
"""Errors of a boto3 call that could not reach AWS."""


def why_refused(error: Exception, *, action: str) -> str:
    """
    Explain in a clause why a call failed.

    Args:
        error: Error of the call, one of `AwsError`.
        action: The permission that the call needs, such as `pricing:GetProducts`.
    """
    if not isinstance(error, ClientError):
        return f"AWS did not answer {action} ({str(error).rstrip('.')})"
    code = code_of(error)
    if code in DENIED:
        return f"your credentials lack the permission {action}"
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split()).rstrip(".")
    if message.startswith("<"):  # an HTML page of a proxy or an emulator
        message = ""
    return f"AWS refused {action} ({': '.join(part for part in (code, message) if part)})"
