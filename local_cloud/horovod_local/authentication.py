"""
Authentication of every request, before anything else reads it.

The cloud runs commands, as EC2 does with user data, and every user of the machine, and every web page in a browser on
it, can send requests to its port. So it answers only requests that carry one of its access keys and its own host name.
Requests of web pages, which have an `Origin` header, are refused whatever their method, and no answer allows an origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs

from horovod_local.instances.machine import METADATA_PATH, TASK_PATH
from horovod_local.shared.access_keys import AccessKeys
from horovod_local.shared.api_calls import ApiCall, error_answer, read_body, read_call
from horovod_local.shared.api_faults import Application, StartResponse

_BEARER: Final = "Bearer "
_SIGNED: Final = re.compile(r"^AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")
_INVALID: Final = "The security token included in the request is invalid."


class Authentication:
    """
    WSGI middleware that refuses requests without a valid access key.

    Args:
        aws: Answers the authenticated requests.
        keys: The access keys that are valid.
        port: Port on which the cloud is served.
    """

    def __init__(self, aws: Application, *, keys: AccessKeys, port: int) -> None:
        self._aws = aws
        self._keys = keys
        # A bucket's name may precede the host name (S3's virtual-hosted style).
        self._hosts = re.compile(rf"(127\.0\.0\.1|([a-z0-9.-]+\.)?localhost):{port}", re.IGNORECASE)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if "HTTP_ORIGIN" in environ:
            return _forbid(environ, start_response, "the local cloud refuses requests of web pages (header Origin)")
        if not self._hosts.fullmatch(environ.get("HTTP_HOST", "")):
            return _forbid(environ, start_response, "the local cloud has no such host name (header Host)")
        # Instances and containers read their metadata without a key, as on EC2.
        if environ.get("PATH_INFO", "").startswith((METADATA_PATH, TASK_PATH)) or self._keys.knows(_key(environ)):
            return self._aws(environ, _without_cors(start_response))
        call = read_call(environ)
        if call is None:
            return _forbid(
                environ, start_response, "the local cloud answers only requests signed with one of its own access keys"
            )
        read_body(environ)
        code, status = _refusal(call)
        answer = error_answer(call, method=environ["REQUEST_METHOD"], code=code, status=status, message=_INVALID)
        start_response(answer.status, answer.headers)
        return [answer.body]


def _key(environ: dict[str, Any]) -> str:
    """Return the access key id of a request: of its bearer token, signature or presigned URL; '' if it has none."""
    given = str(environ.get("HTTP_AUTHORIZATION", ""))
    if given.startswith(_BEARER):
        return given.removeprefix(_BEARER)
    signed = _SIGNED.match(given)
    if signed:
        return signed[1]
    query = parse_qs(str(environ.get("QUERY_STRING", "")))
    # Signature version 4, and version 2, with which boto3 presigns S3 URLs by default.
    return (query.get("X-Amz-Credential") or query.get("AWSAccessKeyId") or [""])[0].partition("/")[0]


def _refusal(call: ApiCall) -> tuple[str, int]:
    """Return the error code and HTTP status with which the service of *call* refuses an unknown access key."""
    return {
        "s3": ("InvalidAccessKeyId", 403),
        "ec2": ("AuthFailure", 401),
        **dict.fromkeys(("autoscaling", "cloudformation", "sns", "iam", "sts"), ("InvalidClientTokenId", 403)),
    }.get(call.service, ("UnrecognizedClientException", 400))


def _forbid(environ: dict[str, Any], start_response: StartResponse, why: str) -> Iterable[bytes]:
    # An unread body would be taken for the connection's next request.
    read_body(environ)
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [f"{why}\n".encode()]


def _without_cors(start_response: StartResponse) -> StartResponse:
    """Drop the headers that let web pages of other origins read the answer; moto allows every origin."""

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
        return start_response(status, kept, *rest)

    return start
