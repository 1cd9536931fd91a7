"""
The local cloud's door: who comes in, before anything else looks at a request.

The cloud runs commands, as EC2 does with user data, and listens where every user of the machine, and every page in a
browser on it, can send requests. So it answers only those who hold one of its keys, under its own name, and never a
page: no request with an `Origin` header is answered, whatever its method, and no answer allows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs

from horovod_local.instances.machine import METADATA_PATH
from horovod_local.shared.access_keys import AccessKeys
from horovod_local.shared.api_calls import ApiCall, read_body, read_call, refuse
from horovod_local.shared.api_faults import Application, StartResponse

_BEARER: Final = "Bearer "
_SIGNED: Final = re.compile(r"^AWS4-HMAC-SHA256 Credential=([^/,\s]+)/")
_INVALID: Final = "The security token included in the request is invalid."


class Door:
    """
    Lets requests in, or refuses them.

    Args:
        inside: Answers those that are let in.
        keys: Keys that open the door.
        port: That the cloud is served on.
    """

    def __init__(self, inside: Application, *, keys: AccessKeys, port: int) -> None:
        self._inside = inside
        self._keys = keys
        # A bucket may come before the host's name: S3 calls that virtual-hosted style.
        self._hosts = re.compile(rf"(127\.0\.0\.1|([a-z0-9.-]+\.)?localhost):{port}", re.IGNORECASE)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if "HTTP_ORIGIN" in environ:
            return _say_no(environ, start_response, "the local cloud answers no web page (header Origin)")
        if not self._hosts.fullmatch(environ.get("HTTP_HOST", "")):
            return _say_no(environ, start_response, "the local cloud has no such name (header Host)")
        # Instances read their metadata without a key, as on EC2.
        if environ.get("PATH_INFO", "").startswith(METADATA_PATH) or self._keys.knows(_key(environ)):
            return self._inside(environ, _without_cors(start_response))
        call = read_call(environ)
        if call is None:
            return _say_no(environ, start_response, "the local cloud answers only who signs with a key of its own")
        read_body(environ)
        code, status = _refusal(call)
        answer = refuse(call, method=environ["REQUEST_METHOD"], code=code, status=status, message=_INVALID)
        start_response(answer.status, answer.headers)
        return [answer.body]


def _key(environ: dict[str, Any]) -> str:
    """Find the access key of a request: in its signature, in a presigned address, or as the bearer's."""
    given = str(environ.get("HTTP_AUTHORIZATION", ""))
    if given.startswith(_BEARER):
        return given.removeprefix(_BEARER)
    signed = _SIGNED.match(given)
    if signed:
        return signed[1]
    query = parse_qs(str(environ.get("QUERY_STRING", "")))
    # Of version 4 of the signature, and of version 2, by which boto3 presigns for S3 unless it is told otherwise.
    return (query.get("X-Amz-Credential") or query.get("AWSAccessKeyId") or [""])[0].partition("/")[0]


def _refusal(call: ApiCall) -> tuple[str, int]:
    """Return by which code and status the service of *call* refuses a key that it does not know."""
    return {
        "s3": ("InvalidAccessKeyId", 403),
        "ec2": ("AuthFailure", 401),
        **dict.fromkeys(("autoscaling", "cloudformation", "sns", "iam", "sts"), ("InvalidClientTokenId", 403)),
    }.get(call.service, ("UnrecognizedClientException", 400))


def _say_no(environ: dict[str, Any], start_response: StartResponse, why: str) -> Iterable[bytes]:
    # What is not read now would be taken for the connection's next request.
    read_body(environ)
    start_response("403 Forbidden", [("Content-Type", "text/plain")])
    return [f"{why}\n".encode()]


def _without_cors(start_response: StartResponse) -> StartResponse:
    """Leave out what would let a page of another origin read an answer; moto allows every one."""

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
        return start_response(status, kept, *rest)

    return start
