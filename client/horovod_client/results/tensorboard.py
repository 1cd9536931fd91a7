"""Download of a run's TensorBoard files as they change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class TensorBoardFiles:
    """
    Keeps a folder in sync with a run's TensorBoard prefix in S3.

    Args:
        s3: Client of the bucket's Region.
        bucket: Name of the model bucket.
        run_id: Id of the run.
        folder: Existing folder for the files.
    """

    def __init__(self, s3: S3Client, *, bucket: str, run_id: str, folder: Path) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = contract.tensorboard_prefix(run_id)
        self._folder = folder.resolve()
        self._tags: dict[str, str] = {}

    def sync(self) -> int:
        """Download new and changed files, and return the number of the run's files."""
        count = 0
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                key, tag = item["Key"], item["ETag"]
                file = (self._folder / key.removeprefix(self._prefix)).resolve()
                # A script chose the names; none may lead out of the folder.
                if key.endswith("/") or not file.is_relative_to(self._folder):
                    continue
                count += 1
                if self._tags.get(key) != tag:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    half = file.with_name(f"{file.name}.half")
                    self._s3.download_file(self._bucket, key, str(half))
                    half.replace(file)
                    self._tags[key] = tag
        return count
