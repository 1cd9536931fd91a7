"""Codes of AWS's errors, read without botocore, which is slow to import."""

from __future__ import annotations

from typing import Final

DENIED: Final = frozenset(
    {"403", "AccessDenied", "AccessDeniedException", "AuthorizationError", "Forbidden", "UnauthorizedOperation"}
)
"""Error codes for valid credentials without the permission."""
CREDENTIALS_REFUSED: Final = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Error codes for invalid or expired credentials."""
THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottledException",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
    }
)
"""Error codes for throttling, which come with a 4xx status. botocore also retries them, but only for some seconds."""


def code_of(error: Exception) -> str:
    """Return the code of an error that AWS returned; '' for other errors, such as those of the network."""
    response = getattr(error, "response", None)  # botocore's network errors have the attribute, too
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
