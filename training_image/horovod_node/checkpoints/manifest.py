"""A checkpoint in S3: its name and its manifest; lists the checkpoints of a run."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MANIFEST_VERSION = 2
PATH_LIMIT: Final = 768
"""Most bytes of a file's path: with the longest names of a training and a run, its key has fewer than S3's 1,024."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLACE = re.compile(r"([0-9]{4,})-([0-9]{8,})/")


class ManifestError(ValueError):
    """A manifest, or a file for one, is invalid; the message is one sentence."""


@dataclass(frozen=True, kw_only=True, order=True)
class CheckpointName:
    """
    The name of a checkpoint. The names of one run sort in the order of its checkpoints.

    Args:
        run_id: The run that wrote the checkpoint.
        attempt: The attempt of the run, from 1.
        sequence: Counts the attempt's checkpoints, from 1.
    """

    run_id: str
    attempt: int
    sequence: int

    @property
    def prefix(self) -> str:
        """Prefix of the checkpoint's objects."""
        return contract.checkpoint_prefix(self.run_id, self.attempt, self.sequence)

    @property
    def manifest_key(self) -> str:
        """Key of the manifest, which makes the checkpoint complete."""
        return self.prefix + contract.CHECKPOINT_MANIFEST

    def file_key(self, path: str) -> str:
        """Return the key of the file at *path* in the checkpoint folder."""
        return self.prefix + contract.CHECKPOINT_FILES + path

    def uri(self, bucket: str) -> str:
        """Return the checkpoint's S3 address, for people."""
        return f"s3://{bucket}/{self.prefix}"


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """
    One file of a checkpoint.

    Args:
        path: Path relative to the checkpoint folder.
        bytes: Size of the file.
        sha256: Digest of its content, in hexadecimal digits.
        mtime_ns: Modification time, epoch nanoseconds. Restores keep it: scripts look for their latest file by it.

    Raises:
        ManifestError: If a checkpoint cannot hold such a file.
    """

    path: str
    bytes: int
    sha256: str
    mtime_ns: int

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.bytes < 0:
            raise ManifestError(f"'{self.path}' cannot have {self.bytes} bytes")
        if not _SHA256.fullmatch(self.sha256):
            raise ManifestError(f"'{self.path}' has no SHA-256 digest: '{self.sha256}'")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """
    The content of a checkpoint.

    Args:
        name: Name of the checkpoint.
        step: Training step at which its upload began; `None` if it was unknown.
        created_at: Epoch seconds at which the checkpoint was complete.
        files: The files, in the order of their paths.

    Raises:
        ManifestError: If two files have the same path, or the path of one is a folder of another.
    """

    name: CheckpointName
    step: int | None
    created_at: int
    files: Sequence[CheckpointFile]

    def __post_init__(self) -> None:
        paths = {file.path for file in self.files}
        if len(paths) != len(self.files):
            raise ManifestError("two files have the same path")
        for path in paths:
            for parent in PurePosixPath(path).parents:
                if str(parent) in paths:
                    raise ManifestError(f"'{parent}' cannot be a file and the folder of '{path}'")

    @property
    def total_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.bytes for file in self.files)

    def to_json(self) -> str:
        """Return the manifest's JSON text."""
        return json.dumps(
            {
                "version": MANIFEST_VERSION,
                "run_id": self.name.run_id,
                "attempt": self.name.attempt,
                "sequence": self.name.sequence,
                "step": self.step,
                "created_at": self.created_at,
                "bytes": self.total_bytes,
                "files": [
                    {"path": file.path, "bytes": file.bytes, "sha256": file.sha256, "mtime_ns": file.mtime_ns}
                    for file in self.files
                ],
            }
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """
        Parse a manifest, which anybody with write access to the bucket may have changed.

        Raises:
            ManifestError: If *text* is not a manifest.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"it is no JSON: {error}") from error
        if not isinstance(fields, dict) or fields.get("version") != MANIFEST_VERSION:
            raise ManifestError(f"it is no manifest of version {MANIFEST_VERSION}")
        step = fields.get("step")
        manifest = cls(
            name=CheckpointName(
                run_id=_text(fields, "run_id"), attempt=_number(fields, "attempt"), sequence=_number(fields, "sequence")
            ),
            step=None if step is None else _number(fields, "step"),
            created_at=_number(fields, "created_at"),
            files=tuple(
                CheckpointFile(
                    path=_text(file, "path"),
                    bytes=_number(file, "bytes"),
                    sha256=_text(file, "sha256"),
                    mtime_ns=_number(file, "mtime_ns"),
                )
                for file in _list(fields, "files")
            ),
        )
        if fields.get("bytes") != manifest.total_bytes:
            raise ManifestError(f"its files have {manifest.total_bytes} bytes, not {fields.get('bytes')}")
        return manifest


@dataclass(frozen=True, kw_only=True)
class FoundCheckpoint:
    """
    A checkpoint that was found in S3.

    Args:
        name: Name of the checkpoint.
        complete: Whether it has a manifest.
        keys: Keys of all its objects.
    """

    name: CheckpointName
    complete: bool
    keys: Sequence[str]


def check_path(path: str) -> None:
    """
    Refuse the path of a file that a checkpoint cannot hold.

    Raises:
        ManifestError: If *path* would leave the folder, is hidden, or cannot be part of an S3 key.
    """
    if any(part.startswith(".") or not part for part in path.split("/")):
        raise ManifestError(f"a checkpoint cannot hold a file at {path!r}: no part of its path may begin with a dot")
    # S3 accepts any name in UTF-8 (S3 User Guide, "Naming Amazon S3 objects"). But the XML of a listing cannot hold
    # control characters, and halves of surrogate pairs stand for bytes that are not UTF-8.
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in path):
        raise ManifestError(
            f"a checkpoint cannot hold a file at {path!r}: rename it, without control characters and in UTF-8"
        )
    if len(path.encode()) > PATH_LIMIT:
        raise ManifestError(f"a checkpoint cannot hold a file whose path has more than {PATH_LIMIT} bytes: {path!r}")


def list_checkpoints(s3: S3Client, *, bucket: str, run_id: str) -> list[FoundCheckpoint]:
    """List all checkpoints of a run, the newest first, including incomplete ones."""
    prefix = contract.checkpoint_prefix(run_id)
    keys: dict[CheckpointName, list[str]] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            place = _PLACE.match(item["Key"], len(prefix))
            if place:
                name = CheckpointName(run_id=run_id, attempt=int(place[1]), sequence=int(place[2]))
                keys.setdefault(name, []).append(item["Key"])
    return [
        FoundCheckpoint(name=name, complete=name.manifest_key in keys[name], keys=keys[name])
        for name in sorted(keys, reverse=True)
    ]


def complete_checkpoints(s3: S3Client, *, bucket: str, run_id: str) -> list[CheckpointName]:
    """List the checkpoints of a run that can be restored, the newest first."""
    return [found.name for found in list_checkpoints(s3, bucket=bucket, run_id=run_id) if found.complete]


def resumable_checkpoints(s3: S3Client, *, bucket: str, run: str, instead_of: str) -> list[CheckpointName]:
    """
    List the checkpoints of another run that can be restored, the newest first.

    If several runs have this name, these are the checkpoints of the newest run that has any.

    Args:
        s3: boto3 client.
        bucket: Bucket of the checkpoints.
        run: Name of the other run, of the same training.
        instead_of: Id of the run that resumes from them; it may have the same name, and is left out.
    """
    prefix = contract.checkpoints_of(contract.training_of(instead_of), run)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    folders = [folder["Prefix"] for page in pages for folder in page.get("CommonPrefixes", ())]
    run_ids = [folder.removeprefix(contract.CHECKPOINT_PREFIX).rstrip("/") for folder in folders]
    for run_id in sorted(run_ids, reverse=True):
        if run_id != instead_of and (found := complete_checkpoints(s3, bucket=bucket, run_id=run_id)):
            return found
    return []


def read_manifest(s3: S3Client, *, bucket: str, name: CheckpointName) -> Manifest:
    """
    Read the manifest of the checkpoint *name*.

    Raises:
        ManifestError: If the manifest is invalid, or that of another checkpoint.
    """
    manifest = Manifest.from_json(s3.get_object(Bucket=bucket, Key=name.manifest_key)["Body"].read())
    if manifest.name != name:
        raise ManifestError(f"it is the manifest of {manifest.name.prefix}")
    return manifest


def _text(fields: Any, name: str) -> str:
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, str):
        raise ManifestError(f"'{name}' must be a string")
    return value


def _number(fields: Any, name: str) -> int:
    value = fields.get(name) if isinstance(fields, Mapping) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ManifestError(f"'{name}' must be a whole number")
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        raise ManifestError(f"'{name}' must be a list")
    return value
