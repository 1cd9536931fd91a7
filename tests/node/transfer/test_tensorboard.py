"""What a script writes for TensorBoard, and its mirror in S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.transfer.tensorboard import TensorBoardMirror
from support.node.emulated_aws import Aws
from support.waiting import SECONDS, eventually

PREFIX = contract.tensorboard_prefix("run-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the script's folder."""
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    return folder


@pytest.fixture
def mirror(aws: Aws, folder: Path) -> Iterator[TensorBoardMirror]:
    """Mirror the folder, with looks that follow each other closely."""
    mirror = TensorBoardMirror(
        aws.client("s3"), folder=folder, bucket=aws.model_bucket, prefix=PREFIX, look_seconds=0.05
    )
    with closing(mirror):
        yield mirror


def mirrored(aws: Aws) -> dict[str, bytes]:
    """Read what is in S3, by what follows the prefix."""
    s3 = aws.client("s3")
    listed = s3.list_objects_v2(Bucket=aws.model_bucket, Prefix=PREFIX).get("Contents", [])
    return {
        item["Key"].removeprefix(PREFIX): s3.get_object(Bucket=aws.model_bucket, Key=item["Key"])["Body"].read()
        for item in listed
    }


@pytest.mark.usefixtures("mirror")
def test_files_follow_the_script(aws: Aws, folder: Path) -> None:
    """New files and what is appended to them come to S3 while the script writes; links do not."""
    # WHEN
    (folder / "train").mkdir()
    events = folder / "train" / "events.out.tfevents.1"
    events.write_bytes(b"one")
    (folder / "link").symlink_to("/etc/hostname")
    # THEN
    one = {"train/events.out.tfevents.1": b"one"}
    assert eventually(lambda: mirrored(aws), lambda seen: seen == one) == one
    # WHEN
    with events.open("ab") as file:
        file.write(b" two")
    # THEN
    both = {"train/events.out.tfevents.1": b"one two"}
    assert eventually(lambda: mirrored(aws), lambda seen: seen == both) == both


def test_last_words_are_mirrored_too(aws: Aws, folder: Path) -> None:
    """What was written just before the end is in S3 when the mirror is closed."""
    # GIVEN a mirror that has looked and will not look again for an hour
    mirror = TensorBoardMirror(
        aws.client("s3"), folder=folder, bucket=aws.model_bucket, prefix=PREFIX, look_seconds=3600
    )
    # WHEN
    (folder / "events").write_bytes(b"last")
    mirror.close(wait_seconds=SECONDS)
    # THEN
    assert mirrored(aws) == {"events": b"last"}


def test_refused_upload_is_tried_again(aws: Aws, folder: Path) -> None:
    """S3 takes nothing at first: the mirror stays, and brings it later."""
    # GIVEN a bucket that is not there yet
    s3 = aws.client("s3")
    s3.delete_bucket(Bucket=aws.model_bucket)
    (folder / "events").write_bytes(b"early")
    mirror = TensorBoardMirror(s3, folder=folder, bucket=aws.model_bucket, prefix=PREFIX, look_seconds=0.05)
    # WHEN
    with closing(mirror):
        mirror.hurry()
        aws.client("s3").create_bucket(Bucket=aws.model_bucket)
        # THEN
        assert eventually(lambda: mirrored(aws)) == {"events": b"early"}
