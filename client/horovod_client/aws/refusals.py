"""What it means when AWS does not answer a question that the client can do without."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError
from botocore.parsers import ResponseParserError

from horovod_client.aws.error_codes import DENIED, code_of

AwsError = (ClientError, BotoCoreError, ResponseParserError)
"""All that a boto3 call raises when AWS refuses it, cannot be reached, or another one answers in its place."""


Unreachable = (ConnectionError, HTTPClientError)
"""What of it says that AWS was not even reached."""


def why_refused(error: Exception, *, action: str) -> str:
    """
    Say in a clause why a call failed.

    Args:
        error: What the call raised, one of `AwsError`.
        action: The permission that the call needs, such as `pricing:GetProducts`.
    """
    if not isinstance(error, ClientError):
        return f"AWS did not answer {action} ({str(error).rstrip('.')})"
    code = code_of(error)
    if code in DENIED:
        return f"your credentials may not call {action}; ask for that permission"
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split()).rstrip(".")
    if message.startswith("<"):  # a proxy's page, or an emulator's, says nothing to people
        message = ""
    return f"AWS refused {action} ({': '.join(part for part in (code, message) if part)})"
