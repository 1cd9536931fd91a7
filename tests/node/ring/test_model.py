"""The model's way to S3."""

from __future__ import annotations

import io
import os
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from horovod_node import contract
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.node.errors import RunError
from horovod_node.ring.model import save_model
from horovod_node.transfer.folder_upload import PART_BYTES, FolderUpload
from support.node.emulated_aws import Aws, TaskAnswers, id_of

KEY = contract.model_key(id_of("run-1"))


def saved(work: NodeAttempt) -> dict[str, object]:
    membership = Membership(work)
    return save_model(work, Task(work, membership, name=contract.TASK_SAVE), keep=membership.keep)


def test_model_is_packed_as_sagemaker_packs_it(aws: Aws, work: NodeAttempt, answers: TaskAnswers) -> None:
    """Paths are relative to the model folder, the answer counts files and bytes, heartbeats follow the upload."""
    # GIVEN
    aws.put(contract.task_key("fleet", id_of("run-1"), 1, contract.TASK_SAVE), **{contract.TOKEN: "a-token"})
    (work.layout.model / "1" / "variables").mkdir(parents=True)
    (work.layout.model / "1" / "saved_model.pb").write_bytes(b"graph")
    (work.layout.model / "1" / "variables" / "data").write_bytes(b"weights")
    (work.layout.model / "metrics.json").write_bytes(b"{}")
    # WHEN
    answer = saved(work)
    # THEN
    archive = aws.client("s3").get_object(Bucket=aws.model_bucket, Key=KEY)
    assert answer == {"key": KEY, "bytes": archive["ContentLength"], "files": 3}
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
        assert {name: file.read() for name, file in files.items() if file} == {
            "1/saved_model.pb": b"graph",
            "1/variables/data": b"weights",
            "metrics.json": b"{}",
        }
    assert answers.heartbeats("a-token")


def test_model_holds_files_where_the_script_left_links(aws: Aws, work: NodeAttempt, tmp_path: Path) -> None:
    """Who downloads a model takes no links: what they point to is packed, and one that leads nowhere or back is not."""
    # GIVEN a folder with every kind of link, as libraries that store weights once leave them
    blobs = tmp_path / "blobs"
    (blobs / "deep").mkdir(parents=True)
    (blobs / "deep" / "b").write_bytes(b"weights")
    (work.layout.model / "file").symlink_to(blobs / "deep" / "b")
    (work.layout.model / "folder").symlink_to(blobs)
    (work.layout.model / "back").symlink_to(work.layout.model)
    (work.layout.model / "nowhere").symlink_to("gone")
    (work.layout.model / "twice").write_bytes(b"same")
    os.link(work.layout.model / "twice", work.layout.model / "twice-again")
    os.mkfifo(work.layout.model / "pipe")
    # WHEN
    FolderUpload(aws.client("s3"), folder=work.layout.model, bucket=aws.model_bucket, key=KEY).run()
    # THEN the client's own reader takes it
    body = aws.client("s3").get_object(Bucket=aws.model_bucket, Key=KEY)["Body"].read()
    (tmp_path / "downloaded").mkdir()
    contract.unpack_archive(io.BytesIO(body), into=tmp_path / "downloaded", most_bytes=1000)
    found = {path.relative_to(tmp_path / "downloaded"): path for path in (tmp_path / "downloaded").rglob("*")}
    assert {str(name): path.read_bytes() for name, path in found.items() if path.is_file()} == {
        "file": b"weights",
        "folder/deep/b": b"weights",
        "twice": b"same",
        "twice-again": b"same",
    }


def test_model_behind_a_link_is_found(work: NodeAttempt, tmp_path: Path) -> None:
    """A script may link the folder that it wrote: files are counted as they are packed."""
    # GIVEN
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "weights").write_bytes(b"x")
    (work.layout.model / "1").symlink_to(tmp_path / "exported")
    # WHEN / THEN
    assert saved(work)["files"] == 1


def test_packing_is_progress(aws: Aws, work: NodeAttempt) -> None:
    """Of files that shrink to nothing, gigabytes are read before the first byte is sent: heartbeats follow both."""
    # GIVEN
    (work.layout.model / "zeros").touch()
    os.truncate(work.layout.model / "zeros", PART_BYTES)
    upload = FolderUpload(aws.client("s3"), folder=work.layout.model, bucket=aws.model_bucket, key=KEY)
    # WHEN
    upload.run()
    # THEN
    assert upload.sent_bytes < PART_BYTES < upload.packed_bytes


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["/".join(["a" * 200] * 6)], "it holds a name of more than 1,024 bytes"),
        ([f"{number}" for number in range(11)], "it holds more than 10 files"),
    ],
    ids=["long", "many"],
)
def test_model_that_nobody_could_unpack_is_told(
    work: NodeAttempt, names: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is read back before the run succeeds, and stays where it is for other tools."""
    # GIVEN
    monkeypatch.setattr("horovod_node.contract.archive.ARCHIVE_ENTRIES_LIMIT", 10)
    for name in names:
        (work.layout.model / name).parent.mkdir(parents=True, exist_ok=True)
        (work.layout.model / name).touch()
    # WHEN / THEN
    with pytest.raises(RunError, match=f"'cdk-horovod download' could not unpack it: {reason}") as raised:
        saved(work)
    assert raised.value.error == contract.ERROR_MODEL_MISSING


def test_large_model_goes_in_parts(aws: Aws, work: NodeAttempt) -> None:
    """A model of several parts arrives whole."""
    # GIVEN random bytes, which gzip cannot shrink
    weights = os.urandom(2 * PART_BYTES + 5)
    (work.layout.model / "weights").write_bytes(weights)
    # WHEN
    answer = saved(work)
    # THEN
    archive = aws.client("s3").get_object(Bucket=aws.model_bucket, Key=KEY)
    assert answer["bytes"] == archive["ContentLength"]
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        file = tar.extractfile("weights")
        assert file is not None
        assert file.read() == weights


def test_fails_when_the_model_folder_is_empty(work: NodeAttempt) -> None:
    """Folders without a file are no model."""
    # GIVEN
    (work.layout.model / "empty").mkdir()
    # WHEN / THEN
    with pytest.raises(RunError, match="left no file in SM_MODEL_DIR") as raised:
        saved(work)
    assert raised.value.error == contract.ERROR_MODEL_MISSING


def test_run_that_needs_no_model_stores_an_empty_one(aws: Aws, work: NodeAttempt) -> None:
    """What a benchmark leaves is its output; the state machine still finds an object."""
    # GIVEN
    relaxed = replace(work, run=replace(work.run, request=replace(work.run.request, model_required=False)))
    # WHEN
    answer = saved(relaxed)
    # THEN
    archive = aws.client("s3").get_object(Bucket=aws.model_bucket, Key=KEY)
    assert answer == {"key": KEY, "bytes": archive["ContentLength"], "files": 0}
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read()), mode="r:gz") as tar:
        assert tar.getnames() == []


def test_fails_when_s3_refuses_the_model(aws: Aws, work: NodeAttempt) -> None:
    """The error says where the model should have gone, and S3's reason."""
    # GIVEN
    (work.layout.model / "weights").write_bytes(b"x")
    aws.client("s3").delete_bucket(Bucket=aws.model_bucket)
    # WHEN / THEN
    with pytest.raises(RunError, match=rf"could not be uploaded to s3://.*/{re.escape(KEY)}: .*NoSuchBucket"):
        saved(work)


def test_fails_when_packing_fails_and_leaves_nothing(aws: Aws, work: NodeAttempt) -> None:
    """An archive that could not be finished never looks like a whole one."""
    # GIVEN a folder that goes away
    (work.layout.model / "weights").write_bytes(b"x")
    upload = FolderUpload(
        aws.client("s3"), folder=work.layout.model / "gone", bucket=aws.model_bucket, key="model.tar.gz"
    )
    # WHEN / THEN
    with pytest.raises(FileNotFoundError):
        upload.run()
    with pytest.raises(ClientError, match="404"):
        aws.client("s3").head_object(Bucket=aws.model_bucket, Key="model.tar.gz")


def test_repeated_upload_knows_its_own_object(aws: Aws, work: NodeAttempt) -> None:
    """S3 stored the model, its answer was lost, and the repeated request is refused: that is a success."""
    # GIVEN a request that is sent twice, the second time with the first one's conditions
    (work.layout.model / "weights").write_bytes(b"x" * 1000)
    sent = []

    def repeat(params: dict[str, object], **_: object) -> None:
        if not sent:
            sent.append(params)
            aws.client("s3").put_object(**params)

    work.s3.meta.events.register("provide-client-params.s3.PutObject", repeat)
    # WHEN
    answer = saved(work)
    # THEN
    archive = aws.client("s3").get_object(Bucket=aws.model_bucket, Key=KEY)
    assert answer == {"key": KEY, "bytes": archive["ContentLength"], "files": 1}


def test_model_of_an_earlier_attempt_is_the_runs_model(aws: Aws, work: NodeAttempt) -> None:
    """An attempt that stored the model and was lost before it said so has done its work."""
    # GIVEN
    (work.layout.model / "weights").write_bytes(b"first")
    first = saved(work)
    # WHEN
    (work.layout.model / "weights").write_bytes(b"second, and longer")
    (work.layout.model / "more").write_bytes(b"")
    aws.put_lease(work.node.fleet, run="run-1", attempt=2)
    second = saved(replace(work, lease=replace(work.lease, attempt=2)))
    # THEN
    assert second == first


@pytest.mark.parametrize("metadata", [{}, {"attempt": "1", "files": "1"}], ids=["nobody's", "this attempt's"])
def test_model_that_is_there_is_never_replaced(aws: Aws, work: NodeAttempt, metadata: dict[str, str]) -> None:
    """What no earlier attempt of this run stored is neither taken for the model nor written over."""
    # GIVEN
    (work.layout.model / "weights").write_bytes(b"x")
    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.model_bucket, Key=KEY, Body=b"forged", Metadata=metadata)
    # WHEN / THEN
    with pytest.raises(RunError, match=rf"{re.escape(KEY)} is there already, and this node did not store it"):
        saved(work)
    assert s3.get_object(Bucket=aws.model_bucket, Key=KEY)["Body"].read() == b"forged"


def test_large_model_is_never_replaced_either(aws: Aws, work: NodeAttempt) -> None:
    """An upload in parts is refused at its end, and leaves no parts."""
    # GIVEN
    (work.layout.model / "weights").write_bytes(os.urandom(PART_BYTES + 5))
    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.model_bucket, Key=KEY, Body=b"forged")
    # WHEN / THEN
    with pytest.raises(RunError, match="is there already"):
        saved(work)
    assert s3.get_object(Bucket=aws.model_bucket, Key=KEY)["Body"].read() == b"forged"
    assert s3.list_multipart_uploads(Bucket=aws.model_bucket).get("Uploads", []) == []
