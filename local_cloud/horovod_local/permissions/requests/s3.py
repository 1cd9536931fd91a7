"""
S3, and the KMS keys of its buckets.

Sources: Amazon S3 User Guide, "Required permissions for Amazon S3 API operations", "Using server-side encryption with
AWS KMS keys (SSE-KMS)" (PutObject needs `kms:GenerateDataKey`, GetObject `kms:Decrypt`, a multipart upload both) and
"Enforce conditional writes on Amazon S3 buckets"; Amazon S3 API Reference, GetObject (without permission to list the
bucket, the answer for a missing object is "forbidden").
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)
from horovod_local.shared.api_calls import read_body

_KEY_IN_BODY: Final = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


class _Address:
    """Bucket, key and query of a request."""

    def __init__(self, request: ServiceRequest) -> None:
        path = str(request.environ.get("PATH_INFO", "")).lstrip("/")
        host = str(request.environ.get("HTTP_HOST", "")).partition(":")[0]
        # The bucket is the first part of the path, or precedes the host name.
        in_path = host in ("localhost", "127.0.0.1")
        self.bucket, _, self.key = path.partition("/") if in_path else (host.partition(".")[0], "", path)
        self.query = parse_qs(str(request.environ.get("QUERY_STRING", "")), keep_blank_values=True)
        self._request = request

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self._request.partition}:s3:::{self.bucket}"

    @property
    def object_arn(self) -> str:
        return f"{self.bucket_arn}/{self.key}"

    @functools.cached_property
    def stored_bucket(self) -> Any:
        return _bucket(self._request, self.bucket)

    def header(self, name: str) -> str | None:
        found = self._request.environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return None if found is None else str(found)


def _bucket(request: ServiceRequest, name: str) -> Any:
    from moto.s3.models import s3_backends

    return s3_backends[request.account][request.partition].buckets.get(name)


def _use_key(request: ServiceRequest, key: str | None, *actions: str) -> Iterator[RequiredPermission]:
    """Yield the permissions that S3 needs for a KMS key on the principal's behalf."""
    if not key:
        return
    arn = key if key.startswith("arn:") else request.arn("kms", f"key/{key}")
    via = f"s3.{request.call.region}.amazonaws.com"
    for action in actions:
        yield RequiredPermission(action=f"kms:{action}", resource=arn, context={"kms:viaservice": (via,)}, via="s3")


def _key_of_bucket(address: _Address) -> str | None:
    """Return the KMS key with which the bucket encrypts new objects; None if it uses none."""
    rule = ((address.stored_bucket.encryption if address.stored_bucket else None) or {}).get("Rule", {})
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    key = default.get("KMSMasterKeyID") if default.get("SSEAlgorithm") == "aws:kms" else None
    return address.header("x-amz-server-side-encryption-aws-kms-key-id") or key


def _get(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    version = address.query.get("versionId")
    yield RequiredPermission(action="s3:GetObjectVersion" if version else "s3:GetObject", resource=address.object_arn)
    stored = address.stored_bucket.keys.get(address.key) if address.stored_bucket is not None else None
    if stored is None:
        yield RequiredPermission(action="s3:ListBucket", resource=address.bucket_arn)
    elif request.call.operation == "GetObject" or address.header("x-amz-checksum-mode"):
        # API Reference, HeadObject: only the checksum has to be decrypted.
        yield from _use_key(request, stored.kms_key_id, "Decrypt")


def _put(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    key = _key_of_bucket(address)
    part = request.call.operation in ("CreateMultipartUpload", "UploadPart")
    context = {"s3:objectcreationoperation": (str(not part).lower(),)}
    for name in ("if-none-match", "if-match"):
        found = address.header(name)
        if found is not None:
            context[f"s3:{name}"] = (found,)
    yield RequiredPermission(action="s3:PutObject", resource=address.object_arn, context=context)
    match request.call.operation:
        case "PutObject" | "CreateMultipartUpload":
            yield from _use_key(request, key, "GenerateDataKey")
        case "UploadPart":
            yield from _use_key(request, key, "GenerateDataKey", "Decrypt")
        case "CompleteMultipartUpload":
            yield from _use_key(request, key, "Decrypt")


def _copy(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    bucket, _, key = unquote(address.header("x-amz-copy-source") or "").partition("?")[0].lstrip("/").partition("/")
    source = _bucket(request, bucket)
    yield RequiredPermission(action="s3:GetObject", resource=f"arn:{request.partition}:s3:::{bucket}/{key}")
    stored = source.keys.get(key) if source is not None else None
    if stored is not None:
        yield from _use_key(request, stored.kms_key_id, "Decrypt")
    yield RequiredPermission(
        action="s3:PutObject", resource=address.object_arn, context={"s3:objectcreationoperation": ("true",)}
    )
    yield from _use_key(request, _key_of_bucket(address), "GenerateDataKey")


def _delete(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    action = "s3:DeleteObjectVersion" if address.query.get("versionId") else "s3:DeleteObject"
    yield RequiredPermission(action=action, resource=address.object_arn)


def _delete_many(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    for key in _KEY_IN_BODY.findall(read_body(request.environ)):
        yield RequiredPermission(action="s3:DeleteObject", resource=f"{address.bucket_arn}/{key.decode()}")


def _list(request: ServiceRequest) -> Iterable[RequiredPermission]:
    address = _Address(request)
    context = {
        f"s3:{name}": (address.query[name][0],) for name in ("prefix", "delimiter", "max-keys") if name in address.query
    }
    yield RequiredPermission(action="s3:ListBucket", resource=address.bucket_arn, context=context)


def _on_bucket(action: str) -> PermissionRule:
    return lambda request: (RequiredPermission(action=f"s3:{action}", resource=_Address(request).bucket_arn),)


def _on_object(action: str) -> PermissionRule:
    return lambda request: (RequiredPermission(action=f"s3:{action}", resource=_Address(request).object_arn),)


RULES: Final[dict[str, PermissionRule]] = {
    "AbortMultipartUpload": _on_object("AbortMultipartUpload"),
    "CompleteMultipartUpload": _put,
    "CopyObject": _copy,
    "CreateMultipartUpload": _put,
    "DeleteObject": _delete,
    "DeleteObjects": _delete_many,
    "GetObject": _get,
    "HeadBucket": _on_bucket("ListBucket"),
    "HeadObject": _get,
    "ListBuckets": without_resource("s3:ListAllMyBuckets"),
    "ListObjects": _list,
    "ListObjectsV2": _list,
    "ListParts": _on_object("ListMultipartUploadParts"),
    "PutObject": _put,
    "UploadPart": _put,
}
