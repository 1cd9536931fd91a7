"""Files of this machine, put where a run in the local cloud finds its data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from horovod_local.errors import LocalCloudError

_PREFIX: Final = "local-data"


def put_in_bucket(address: str, *, channel: str, bucket: str, s3: Any) -> str:
    """
    Upload a file or a folder, unless the very same is there, and return the prefix that it has; S3's own stay as given.

    Args:
        address: A path of this machine, or `s3://…`.
        channel: Of the data, for the error.
        bucket: Takes the files.
        s3: Client of the cloud.

    Raises:
        LocalCloudError: If there is no file at that path, or one cannot be read.
    """
    if address.startswith("s3://"):
        return address
    path = Path(address).expanduser()
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    if not files:
        raise LocalCloudError(f"'--data {channel}={address}' holds no file: give a path of this machine, or s3://…")
    root = path.parent if path.is_file() else path
    try:
        contents = {file.relative_to(root).as_posix(): file for file in files}
        digest = hashlib.sha256()
        for name, file in contents.items():
            with file.open("rb") as opened:
                digest.update(f"{name}\0{hashlib.file_digest(opened, 'sha256').hexdigest()}\0".encode())
        prefix = f"{_PREFIX}/{digest.hexdigest()[:16]}/"
        there = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("KeyCount", 0)
        if there < len(contents):
            for name, file in contents.items():
                s3.upload_file(str(file), bucket, prefix + name)
    except OSError as error:
        raise LocalCloudError(f"'--data {channel}={address}' cannot be read: {error}") from error
    return f"s3://{bucket}/{prefix}"
