"""
Identifies the API call of a request, and builds error answers in the service's protocol.

The operation is in the header `X-Amz-Target` (JSON), in the form field `Action` (query and EC2) or in the path (RPC
v2); for S3 it follows from method, path and query (Amazon S3 API Reference). The error bodies are those that each
protocol documents (Smithy, "AWS protocols").
"""

from __future__ import annotations

import io
import json
import re
import uuid
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote

from horovod_local.shared.access_keys import caller_of

_CREDENTIAL: Final = re.compile(r"Credential=([^/,]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_BOTO3_NAMES: Final = {"states": "stepfunctions", "monitoring": "cloudwatch"}
"""Signing name of a service to its name in boto3, where they differ."""
_S3_SUBRESOURCES: Final = frozenset(
    [
        "accelerate",
        "acl",
        "analytics",
        "attributes",
        "cors",
        "encryption",
        "intelligent-tiering",
        "inventory",
        "legal-hold",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "ownershipControls",
        "policy",
        "policyStatus",
        "publicAccessBlock",
        "replication",
        "requestPayment",
        "restore",
        "retention",
        "select",
        "tagging",
        "torrent",
        "versioning",
        "versions",
        "website",
    ]
)
"""Query parameters of requests for a subresource of a bucket or object; their operations are not identified."""
_STATE_AGENT: Final = "horovod-local-state/"
_RPC_PATH: Final = re.compile(r"^/service/[^/]+/operation/([^/]+)$")
_FORM: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, kw_only=True)
class ApiCall:
    """
    One request to AWS.

    Args:
        service: Name of the service in boto3.
        operation: Name of the operation in the API; empty if it is not known.
        caller: Id of the instance for a node, `workflow` for a state machine, else the name of the access key.
        region: Region for which the request was signed.
        state: Name of the calling state, if the caller is a state machine; else empty.
        access_key: Id of the access key that signed the request.
    """

    service: str
    operation: str
    caller: str
    region: str
    state: str = ""
    access_key: str = field(default="", compare=False)


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer:
    """An HTTP answer with an error."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


def read_call(environ: dict[str, Any]) -> ApiCall | None:
    """Identify the API call of a WSGI request, whose body can still be read afterwards; None if it is unsigned."""
    query = parse_qs(str(environ.get("QUERY_STRING", "")))
    # A presigned URL has the credential in its query instead of a header.
    presigned = "".join(f"Credential={credential}" for credential in query.get("X-Amz-Credential", ()))
    signed = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION") or presigned)
    if signed is None:
        return None
    key, region, scope = signed.groups()
    service = _BOTO3_NAMES.get(scope, scope)
    operation = _s3_operation(environ) if service == "s3" else _operation(environ)
    return ApiCall(
        service=service,
        operation=operation,
        caller=caller_of(key),
        region=region,
        state=_state(environ),
        access_key=key,
    )


def state_user_agent(state: str) -> str:
    """Encode the name of a state as part of the header `User-Agent`, from which `read_call` reads it."""
    return f"{_STATE_AGENT}{quote(state, safe='')}"


def _state(environ: dict[str, Any]) -> str:
    found = re.search(rf"{re.escape(_STATE_AGENT)}(\S+)", str(environ.get("HTTP_USER_AGENT", "")))
    return unquote(found[1]) if found else ""


def read_body(environ: dict[str, Any]) -> bytes:
    """Read the body of a request, so that it can be read again."""
    if environ.get("wsgi.input_terminated"):
        # werkzeug ends the stream with the body, even if the body is chunked and has no length.
        body: bytes = environ["wsgi.input"].read()
    else:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def error_answer(call: ApiCall, *, method: str, code: str, status: int, message: str, **members: Any) -> ErrorAnswer:
    """Build the error answer of the service of *call*; *members* are further members of a JSON error."""
    request = str(uuid.uuid4())
    error = f"<Code>{code}</Code><Message>{message}</Message>"
    kind = "text/xml"
    match call.service:
        case "s3":
            body = f"<Error>{error}<RequestId>{request}</RequestId></Error>"
        case "ec2":
            body = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>"
        case "autoscaling" | "cloudformation" | "iam" | "sns" | "sts":
            fault = "Receiver" if status >= 500 else "Sender"
            body = (
                f"<ErrorResponse><Error><Type>{fault}</Type>{error}</Error><RequestId>{request}</RequestId>"
                "</ErrorResponse>"
            )
        case _:
            kind, body = "application/x-amz-json-1.0", json.dumps({"__type": code, "message": message, **members})
    return ErrorAnswer(
        status=f"{status} {code}",
        headers=[("Content-Type", kind), ("x-amzn-RequestId", request), ("x-amz-request-id", request)],
        # The answer to HEAD has no body, so SDKs use the status as error code.
        body=b"" if method == "HEAD" else body.encode(),
    )


def _operation(environ: dict[str, Any]) -> str:
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target:
        return target.rpartition(".")[2]
    by_path = _RPC_PATH.match(environ.get("PATH_INFO", ""))
    if by_path:
        return str(by_path[1])
    form = str(environ.get("QUERY_STRING", ""))
    if environ.get("CONTENT_TYPE", "").startswith(_FORM):
        form = read_body(environ).decode("utf-8", "replace")
    return parse_qs(form).get("Action", [""])[0]


def _s3_operation(environ: dict[str, Any]) -> str:
    method, path = str(environ["REQUEST_METHOD"]), str(environ.get("PATH_INFO", "")).lstrip("/")
    host = str(environ.get("HTTP_HOST", "")).partition(":")[0]
    # The bucket is the first part of the path, or precedes the host name.
    in_path = host in ("localhost", "127.0.0.1")
    has_key = bool(path.partition("/")[2] if in_path else path)
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    if _S3_SUBRESOURCES & set(query):
        return ""
    if in_path and not path:
        return "ListBuckets" if method == "GET" else ""
    if not has_key:
        if method == "GET":
            return "ListObjectsV2" if query.get("list-type") == ["2"] else "ListObjects"
        if method == "POST":
            return "DeleteObjects" if "delete" in query else ""
        return {"HEAD": "HeadBucket", "PUT": "" if query else "CreateBucket"}.get(method, "")
    if "uploadId" in query:
        return {
            "PUT": "UploadPart",
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }.get(method, "")
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    if method == "PUT":
        return "CopyObject" if "HTTP_X_AMZ_COPY_SOURCE" in environ else "PutObject"
    return {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, "")
