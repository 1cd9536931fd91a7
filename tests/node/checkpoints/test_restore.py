"""Checkpoints on their way back: the newest that is whole, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from horovod_node import contract
from horovod_node.checkpoints.manifest import CheckpointFile, CheckpointName, Manifest
from horovod_node.checkpoints.restore import Restored, restore
from horovod_node.node.errors import RunError
from horovod_node.node.folders import Layout
from support.node.emulated_aws import Aws, id_of

RUN_ID = id_of("run-1")
OLD = {"epoch-1/weights": b"one", "step": b"1"}
NEW = {"epoch-2/weights": b"two" * 1000, "step": b"2"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(root=tmp_path / "ml")
    layout.create()
    return layout


def put(
    aws: Aws, files: Mapping[str, bytes], *, attempt: int = 1, sequence: int = 1, run: str = id_of("run-1")
) -> Manifest:
    """Put a checkpoint into S3 as a mirror does."""
    manifest = Manifest(
        name=CheckpointName(run_id=run, attempt=attempt, sequence=sequence),
        step=10 * sequence,
        created_at=1_700_000_000,
        files=tuple(
            CheckpointFile(
                path=path,
                bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
                mtime_ns=1_700_000_000_000_000_000 + number,
            )
            for number, (path, content) in enumerate(sorted(files.items()))
        ),
    )
    s3 = aws.client("s3")
    for path, content in files.items():
        s3.put_object(Bucket=aws.model_bucket, Key=manifest.name.file_key(path), Body=content)
    s3.put_object(Bucket=aws.model_bucket, Key=manifest.name.manifest_key, Body=manifest.to_json().encode())
    return manifest


def restored(aws: Aws, layout: Layout, *, resume_from: str = "", s3: object = None) -> Restored | None:
    return restore(
        s3 or aws.client("s3"),  # type: ignore[arg-type]
        layout=layout,
        bucket=aws.model_bucket,
        run_id=RUN_ID,
        resume_from=resume_from,
    )


def contents(layout: Layout) -> dict[str, bytes]:
    """Read all files of the checkpoints' folder."""
    folder = layout.checkpoints
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(layout: Layout, files: Mapping[str, bytes]) -> None:
    for path, content in files.items():
        (layout.checkpoints / path).parent.mkdir(parents=True, exist_ok=True)
        (layout.checkpoints / path).write_bytes(content)


def nothing_is_beside(layout: Layout) -> bool:
    return not list(layout.root.glob(".*"))


def test_newest_checkpoint_is_restored(aws: Aws, layout: Layout) -> None:
    """With the times of its files: scripts look for their latest by them."""
    # GIVEN
    put(aws, OLD)
    manifest = put(aws, NEW, sequence=2)
    # WHEN
    found = restored(aws, layout)
    # THEN
    assert found == Restored(name=manifest.name, step=20, files=2, bytes=3001, received_bytes=3001)
    assert contents(layout) == NEW
    assert [(layout.checkpoints / file.path).stat().st_mtime_ns for file in manifest.files] == [
        file.mtime_ns for file in manifest.files
    ]
    assert nothing_is_beside(layout)


def test_what_an_earlier_attempt_left_does_not_win(aws: Aws, layout: Layout) -> None:
    """A node that survived has files that S3 has not, or other ones: they go, and what is the same stays."""
    # GIVEN
    put(aws, NEW)
    write(layout, NEW | {"step": b"3", "epoch-3/weights": b"three", ".half": b"x"})
    # WHEN
    found = restored(aws, layout)
    # THEN
    assert contents(layout) == NEW
    assert found is not None
    assert found.received_bytes == 1


def test_identical_folder_is_not_downloaded(aws: Aws, layout: Layout) -> None:
    """The second time nothing comes over the network but the manifest."""
    # GIVEN
    put(aws, NEW)
    restored(aws, layout)
    s3 = aws.client("s3")
    asked: list[str] = []
    s3.meta.events.register("provide-client-params.s3.GetObject", lambda params, **_: asked.append(params["Key"]))
    # WHEN
    found = restored(aws, layout, s3=s3)
    # THEN
    assert found is not None
    assert found.received_bytes == 0
    assert [key.rsplit("/", 1)[1] for key in asked] == [contract.CHECKPOINT_MANIFEST]
    assert contents(layout) == NEW


def test_links_are_not_taken_for_files(aws: Aws, layout: Layout, tmp_path: Path) -> None:
    """What a script linked in is downloaded as a file: nothing is written to the link's end."""
    # GIVEN
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(NEW["step"])
    put(aws, NEW)
    (layout.checkpoints / "step").symlink_to(elsewhere)
    # WHEN
    restored(aws, layout)
    # THEN
    assert contents(layout) == NEW
    assert not (layout.checkpoints / "step").is_symlink()
    assert elsewhere.exists()


def test_run_without_a_checkpoint_begins_with_an_empty_folder(aws: Aws, layout: Layout) -> None:
    """What one node has and the others have not would let their ranks begin differently."""
    # GIVEN
    write(layout, OLD)
    # WHEN / THEN
    assert restored(aws, layout) is None
    assert contents(layout) == {}
    assert layout.checkpoints.is_dir()
    assert nothing_is_beside(layout)


def test_another_runs_checkpoint_is_resumed(aws: Aws, layout: Layout) -> None:
    """The newest of the run that the request names, until this run has one of its own."""
    # GIVEN
    put(aws, OLD, run=id_of("run-0"))
    other = put(aws, NEW, run=id_of("run-0"), sequence=2)
    # WHEN / THEN
    found = restored(aws, layout, resume_from="run-0")
    assert found is not None
    assert (found.name, contents(layout)) == (other.name, NEW)
    # AND
    own = put(aws, {"step": b"3"})
    found = restored(aws, layout, resume_from="run-0")
    assert found is not None
    assert (found.name, contents(layout)) == (own.name, {"step": b"3"})


def test_run_of_the_same_name_restores_nothing_of_an_older_one(aws: Aws, layout: Layout) -> None:
    """A name that was used before, by this training or another one in the same bucket, brings no checkpoint along."""
    # GIVEN
    put(aws, OLD, run="Training/run-1/20261125T110236Z")
    put(aws, OLD, run="Other/run-1/20261126T110236Z")
    # WHEN / THEN
    assert restored(aws, layout) is None
    assert contents(layout) == {}


def test_resumes_the_newest_run_of_a_name_that_left_a_checkpoint(aws: Aws, layout: Layout) -> None:
    """The request names a run of its own training; the run's own id is never what it resumes."""
    # GIVEN
    put(aws, OLD, run="Training/run-1/20261101T000000Z")
    newest = put(aws, NEW, run="Training/run-1/20261102T000000Z").name
    torn = put(aws, OLD, run="Training/run-1/20261103T000000Z").name
    aws.client("s3").delete_object(Bucket=aws.model_bucket, Key=torn.manifest_key)
    put(aws, OLD, run="Other/run-1/20261104T000000Z")
    # WHEN
    found = restored(aws, layout, resume_from="run-1")
    # THEN
    assert found is not None
    assert (found.name, contents(layout)) == (newest, NEW)


def test_fails_when_the_only_checkpoint_was_copied_from_another_run(aws: Aws, layout: Layout) -> None:
    """A manifest names its run; below another run's prefix it counts for nothing."""
    # GIVEN
    other = put(aws, OLD, run="Training/run-0/20261101T000000Z").name
    s3 = aws.client("s3")
    mine = CheckpointName(run_id=RUN_ID, attempt=1, sequence=1)
    for key in (other.manifest_key, *(other.file_key(path) for path in OLD)):
        source = {"Bucket": aws.model_bucket, "Key": key}
        s3.copy_object(Bucket=aws.model_bucket, Key=key.replace(other.prefix, mine.prefix), CopySource=source)
    # WHEN / THEN
    with pytest.raises(RunError, match=f"it is the manifest of {other.prefix}"):
        restored(aws, layout)


def test_fails_when_the_run_to_resume_has_no_checkpoint(aws: Aws, layout: Layout) -> None:
    """A torn one is none; the sentence names the run and where its checkpoints would be."""
    # GIVEN
    name = put(aws, OLD, run=id_of("run-0")).name
    aws.client("s3").delete_object(Bucket=aws.model_bucket, Key=name.manifest_key)
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        restored(aws, layout, resume_from="run-0")
    assert raised.value.error == contract.ERROR_DATA_NOT_FOUND
    assert raised.value.message == (
        f"'resume_from' is run-0, of which there is no complete checkpoint: s3://{aws.model_bucket}/checkpoints/Training/run-0/."
    )


@pytest.mark.parametrize("damage", ["changed", "cut", "missing", "no manifest", "another's manifest", "outside"])
def test_damaged_checkpoint_is_passed_over(aws: Aws, layout: Layout, damage: str) -> None:
    """Every file is compared with the manifest; the next older one serves, and nothing of the damaged one is left."""
    # GIVEN
    put(aws, OLD, sequence=1)
    manifest = put(aws, NEW, sequence=2)
    s3, bucket, name = aws.client("s3"), aws.model_bucket, manifest.name
    key = name.file_key("epoch-2/weights")
    if damage == "changed":
        s3.put_object(Bucket=bucket, Key=key, Body=b"TWO" * 1000)
    elif damage == "cut":
        s3.put_object(Bucket=bucket, Key=key, Body=b"two" * 999)
    elif damage == "missing":
        s3.delete_object(Bucket=bucket, Key=key)
    elif damage == "no manifest":
        s3.put_object(Bucket=bucket, Key=name.manifest_key, Body=b"{")
    elif damage == "another's manifest":
        other = replace(manifest, name=replace(name, sequence=1))
        s3.put_object(Bucket=bucket, Key=name.manifest_key, Body=other.to_json().encode())
    else:
        fields = json.loads(manifest.to_json())
        fields["files"][0]["path"] = "../../outside"
        s3.put_object(Bucket=bucket, Key=name.manifest_key, Body=json.dumps(fields).encode())
        s3.put_object(Bucket=bucket, Key=f"{name.prefix}files/../../outside", Body=NEW["epoch-2/weights"])
    # WHEN
    found = restored(aws, layout)
    # THEN
    assert found is not None
    assert (found.name.sequence, contents(layout)) == (1, OLD)
    assert nothing_is_beside(layout)
    assert not list(layout.root.parent.rglob("outside"))


def test_fails_when_no_checkpoint_can_be_used(aws: Aws, layout: Layout) -> None:
    """A run that has checkpoints never begins from nothing without a word; the sentences name what is wrong."""
    # GIVEN
    for sequence in (1, 2):
        key = put(aws, OLD, sequence=sequence).name.file_key("step")
        aws.client("s3").put_object(Bucket=aws.model_bucket, Key=key, Body=b"9")
    # WHEN / THEN
    with pytest.raises(RunError) as raised:
        restored(aws, layout)
    address = f"s3://{aws.model_bucket}/checkpoints/{id_of('run-1')}/0001-0000000"
    assert raised.value.error == contract.ERROR_NODE_FAILED
    assert raised.value.message == (
        f"No checkpoint can be restored. {address}2/files/step is not what its manifest says. "
        f"{address}1/files/step is not what its manifest says."
    )


@pytest.mark.parametrize("refusal", ["NoSuchKey", "AccessDenied"])
def test_checkpoint_that_is_pruned_meanwhile_gives_way_to_a_newer_one(aws: Aws, layout: Layout, refusal: str) -> None:
    """S3 is listed anew. Of a missing object it says "denied" to a node, which may list the checkpoints only."""
    # GIVEN a leader that completes the next checkpoint and prunes, just before this node asks for a file
    s3 = aws.client("s3")
    first = put(aws, OLD)

    def go_on(params: Mapping[str, str], **_: object) -> None:
        if params["Key"] == first.name.file_key("step"):
            put(aws, NEW, sequence=2)
            for key in (first.name.manifest_key, *(first.name.file_key(path) for path in OLD)):
                aws.client("s3").delete_object(Bucket=aws.model_bucket, Key=key)
            raise ClientError({"Error": {"Code": refusal, "Message": "pruned"}}, "HeadObject")

    s3.meta.events.register("provide-client-params.s3.HeadObject", go_on)
    # WHEN
    found = restored(aws, layout, s3=s3)
    # THEN
    assert found is not None
    assert (found.name.sequence, contents(layout)) == (2, NEW)


@pytest.mark.parametrize("operation", ["ListObjectsV2", "GetObject", "HeadObject"])
def test_fails_when_s3_refuses(aws: Aws, layout: Layout, operation: str) -> None:
    """What must not be read is no reason to begin from an older state: the run fails, and what was here stays."""
    # GIVEN
    put(aws, OLD)
    write(layout, NEW)
    s3 = aws.client("s3")

    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not you"}}, operation)

    s3.meta.events.register(f"provide-client-params.s3.{operation}", refuse)
    # WHEN / THEN
    with pytest.raises(
        RunError,
        match=r"The checkpoint cannot be read: .* s3://.*/checkpoints/Training/run-1/20261126T110236Z/ .*not you",
    ) as raised:
        restored(aws, layout, s3=s3)
    assert raised.value.error == contract.ERROR_STORAGE_REFUSED
    assert contents(layout) == NEW
    assert nothing_is_beside(layout)


def test_agent_that_was_killed_while_it_restored_begins_again(aws: Aws, layout: Layout) -> None:
    """Wherever it stopped: half downloaded, or between the two renames."""
    # GIVEN
    put(aws, NEW)
    half, old = layout.root / ".checkpoints-new", layout.root / ".checkpoints-old"
    half.mkdir()
    (half / "step").write_bytes(b"half")
    layout.checkpoints.rename(old)
    # WHEN
    restored(aws, layout)
    # THEN
    assert contents(layout) == NEW
    assert nothing_is_beside(layout)
