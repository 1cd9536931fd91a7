"""Codes of the errors that AWS answers, read without botocore, which takes its time to load."""

from __future__ import annotations

from typing import Final

DENIED: Final = frozenset(
    {"403", "AccessDenied", "AccessDeniedException", "AuthorizationError", "Forbidden", "UnauthorizedOperation"}
)
"""Codes that AWS's services answer to credentials that are good but may not do this."""
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
"""Codes that AWS's services answer to credentials that are wrong or out of date."""
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
"""Codes of AWS's services that ask for patience, though the status is that of a caller's mistake (botocore retries on
them, too, but no longer than some seconds)."""


def code_of(error: Exception) -> str:
    """Name the code that AWS answered; '' if *error* is no answer of AWS, but a network's failure for example."""
    response = getattr(error, "response", None)  # botocore's network errors have the attribute, too
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
