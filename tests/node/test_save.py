"""The model's way to S3."""

from __future__ import annotations

import io
import os
import re
import tarfile

import pytest
from botocore.exceptions import ClientError

from horovod_node import contract
from horovod_node.errors import RunError
from horovod_node.membership import Membership
from horovod_node.save import save_model
from horovod_node.task import Task
from horovod_node.upload import PART_BYTES, FolderUpload
from horovod_node.work import Work
from node.emulated import Aws, TaskAnswers, id_of

KEY = contract.model_key(id_of("run-1"))


def saved(work: Work) -> dict[str, object]:
    membership = Membership(work)
    return save_model(work, Task(work, membership, name=contract.TASK_SAVE), keep=membership.keep)


def test_model_is_packed_as_sagemaker_packs_it(aws: Aws, work: Work, answers: TaskAnswers) -> None:
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


def test_large_model_goes_in_parts(aws: Aws, work: Work) -> None:
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


def test_fails_when_the_model_folder_is_empty(work: Work) -> None:
    """Folders without a file are no model."""
    # GIVEN
    (work.layout.model / "empty").mkdir()
    # WHEN / THEN
    with pytest.raises(RunError, match="left no file in SM_MODEL_DIR") as raised:
        saved(work)
    assert raised.value.error == contract.ERROR_MODEL_MISSING


def test_fails_when_s3_refuses_the_model(aws: Aws, work: Work) -> None:
    """The error says where the model should have gone, and S3's reason."""
    # GIVEN
    (work.layout.model / "weights").write_bytes(b"x")
    aws.client("s3").delete_bucket(Bucket=aws.model_bucket)
    # WHEN / THEN
    with pytest.raises(RunError, match=rf"could not be uploaded to s3://.*/{re.escape(KEY)}: .*NoSuchBucket"):
        saved(work)


def test_fails_when_packing_fails_and_leaves_nothing(aws: Aws, work: Work) -> None:
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
