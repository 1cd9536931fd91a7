"""
S3, and the KMS keys of its buckets.

Sources: Amazon S3 User Guide, "Required permissions for Amazon S3 API operations", "Using server-side encryption with
AWS KMS keys (SSE-KMS)" (PutObject needs `kms:GenerateDataKey`, GetObject `kms:Decrypt`, a multipart upload both) and
"Enforce conditional writes on Amazon S3 buckets"; Amazon S3 API Reference, GetObject (whoever may not list the bucket
is told "forbidden" for an object that does not exist).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from horovod_local.permissions.requests.asked import Asked, Check, Reader, on_nothing
from horovod_local.shared.api_calls import read_body

_KEY_IN_BODY: Final = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


class _Address:
    """Bucket, key and query of a request."""

    def __init__(self, asked: Asked) -> None:
        path = str(asked.environ.get("PATH_INFO", "")).lstrip("/")
        host = str(asked.environ.get("HTTP_HOST", "")).partition(":")[0]
        # The bucket is the path's first part, or comes before the host's name.
        in_path = host in ("localhost", "127.0.0.1")
        self.bucket, _, self.key = path.partition("/") if in_path else (host.partition(".")[0], "", path)
        self.query = parse_qs(str(asked.environ.get("QUERY_STRING", "")), keep_blank_values=True)
        self._asked = asked

    @property
    def bucket_arn(self) -> str:
        return f"arn:{self._asked.partition}:s3:::{self.bucket}"

    @property
    def object_arn(self) -> str:
        return f"{self.bucket_arn}/{self.key}"

    @functools.cached_property
    def stored_bucket(self) -> Any:
        return _bucket(self._asked, self.bucket)

    def header(self, name: str) -> str | None:
        found = self._asked.environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        return None if found is None else str(found)


def _bucket(asked: Asked, name: str) -> Any:
    from moto.s3.models import s3_backends

    return s3_backends[asked.account][asked.partition].buckets.get(name)


def _use_key(asked: Asked, key: str | None, *actions: str) -> Iterator[Check]:
    """Ask KMS on the principal's behalf."""
    if not key:
        return
    arn = key if key.startswith("arn:") else asked.arn("kms", f"key/{key}")
    via = f"s3.{asked.call.region}.amazonaws.com"
    for action in actions:
        yield Check(action=f"kms:{action}", resource=arn, context={"kms:viaservice": (via,)}, via="s3")


def _key_of_bucket(address: _Address) -> str | None:
    """Give the KMS key under which the bucket stores new objects."""
    rule = ((address.stored_bucket.encryption if address.stored_bucket else None) or {}).get("Rule", {})
    default = rule.get("ApplyServerSideEncryptionByDefault", {})
    key = default.get("KMSMasterKeyID") if default.get("SSEAlgorithm") == "aws:kms" else None
    return address.header("x-amz-server-side-encryption-aws-kms-key-id") or key


def _get(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    version = address.query.get("versionId")
    yield Check(action="s3:GetObjectVersion" if version else "s3:GetObject", resource=address.object_arn)
    stored = address.stored_bucket.keys.get(address.key) if address.stored_bucket is not None else None
    if stored is None:
        yield Check(action="s3:ListBucket", resource=address.bucket_arn)
    elif asked.call.operation == "GetObject" or address.header("x-amz-checksum-mode"):
        # API Reference, HeadObject: the checksum of an object is decrypted, its other headers are not.
        yield from _use_key(asked, stored.kms_key_id, "Decrypt")


def _put(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    key = _key_of_bucket(address)
    part = asked.call.operation in ("CreateMultipartUpload", "UploadPart")
    context = {"s3:objectcreationoperation": (str(not part).lower(),)}
    for name in ("if-none-match", "if-match"):
        found = address.header(name)
        if found is not None:
            context[f"s3:{name}"] = (found,)
    yield Check(action="s3:PutObject", resource=address.object_arn, context=context)
    match asked.call.operation:
        case "PutObject" | "CreateMultipartUpload":
            yield from _use_key(asked, key, "GenerateDataKey")
        case "UploadPart":
            yield from _use_key(asked, key, "GenerateDataKey", "Decrypt")
        case "CompleteMultipartUpload":
            yield from _use_key(asked, key, "Decrypt")


def _copy(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    bucket, _, key = unquote(address.header("x-amz-copy-source") or "").partition("?")[0].lstrip("/").partition("/")
    source = _bucket(asked, bucket)
    yield Check(action="s3:GetObject", resource=f"arn:{asked.partition}:s3:::{bucket}/{key}")
    stored = source.keys.get(key) if source is not None else None
    if stored is not None:
        yield from _use_key(asked, stored.kms_key_id, "Decrypt")
    yield Check(action="s3:PutObject", resource=address.object_arn, context={"s3:objectcreationoperation": ("true",)})
    yield from _use_key(asked, _key_of_bucket(address), "GenerateDataKey")


def _delete(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    action = "s3:DeleteObjectVersion" if address.query.get("versionId") else "s3:DeleteObject"
    yield Check(action=action, resource=address.object_arn)


def _delete_many(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    for key in _KEY_IN_BODY.findall(read_body(asked.environ)):
        yield Check(action="s3:DeleteObject", resource=f"{address.bucket_arn}/{key.decode()}")


def _list(asked: Asked) -> Iterable[Check]:
    address = _Address(asked)
    context = {
        f"s3:{name}": (address.query[name][0],) for name in ("prefix", "delimiter", "max-keys") if name in address.query
    }
    yield Check(action="s3:ListBucket", resource=address.bucket_arn, context=context)


def _on_bucket(action: str) -> Reader:
    return lambda asked: (Check(action=f"s3:{action}", resource=_Address(asked).bucket_arn),)


def _on_object(action: str) -> Reader:
    return lambda asked: (Check(action=f"s3:{action}", resource=_Address(asked).object_arn),)


READERS: Final[dict[str, Reader]] = {
    "AbortMultipartUpload": _on_object("AbortMultipartUpload"),
    "CompleteMultipartUpload": _put,
    "CopyObject": _copy,
    "CreateMultipartUpload": _put,
    "DeleteObject": _delete,
    "DeleteObjects": _delete_many,
    "GetObject": _get,
    "HeadBucket": _on_bucket("ListBucket"),
    "HeadObject": _get,
    "ListBuckets": on_nothing("s3:ListAllMyBuckets"),
    "ListObjects": _list,
    "ListObjectsV2": _list,
    "ListParts": _on_object("ListMultipartUploadParts"),
    "PutObject": _put,
    "UploadPart": _put,
}
