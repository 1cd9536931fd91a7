"""The checkpoints' folder and its mirror in S3."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from horovod_node.checkpoints import mirror as mirror_module
from horovod_node.checkpoints.manifest import CheckpointName, list_checkpoints, read_manifest
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.checkpoints.restore import restore
from horovod_node.checkpoints.snapshot import ChangedError, held, look
from horovod_node.node.folders import Layout
from horovod_node.ring.early_stop import save_last_checkpoint
from support.node.emulated_aws import Aws
from support.waiting import SECONDS, eventually

PART_BYTES = 5 * 1024**2
"""S3's least."""
LOOK_SECONDS = 0.2
"""For the tests of looks. In the others a look at half of what they write would be a checkpoint too many."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a checkpoints' folder."""
    folder = tmp_path / "ml" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def mirrored(aws: Aws, folder: Path) -> Iterator[Callable[..., CheckpointMirror]]:
    """Start mirrors that upload when they are told to; they are closed after the test."""
    mirrors = []

    def start(*, attempt: int = 1, keep: int = 3, **options: Any) -> CheckpointMirror:
        options = {"s3": aws.client("s3"), "bucket": aws.model_bucket, "look_seconds": 3600} | options
        mirror = CheckpointMirror(
            options.pop("s3"),
            folder=folder,
            run_id="run-1",
            attempt=attempt,
            keep=keep,
            part_bytes=PART_BYTES,
            **options,
        )
        mirrors.append(mirror)
        return mirror

    yield start
    for mirror in mirrors:
        mirror.close()


def named(attempt: int, sequence: int) -> CheckpointName:
    return CheckpointName(run_id="run-1", attempt=attempt, sequence=sequence)


def result(flush: Future[CheckpointName | None]) -> CheckpointName | None:
    return flush.result(timeout=SECONDS)


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def restored(aws: Aws, root: Path, *, run: str = "run-1") -> dict[str, bytes]:
    """Restore into a fresh folder and read it."""
    layout = Layout(root=root)
    restore(aws.client("s3"), layout=layout, bucket=aws.model_bucket, run_id=run, resume_from="")
    return contents(layout.checkpoints)


def state(aws: Aws) -> list[tuple[int, int, bool]]:
    """List the run's checkpoints: attempt, sequence, completeness."""
    found = list_checkpoints(aws.client("s3"), bucket=aws.model_bucket, run_id="run-1")
    return [(each.name.attempt, each.name.sequence, each.complete) for each in found]


def test_new_state_is_mirrored_by_itself(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], tmp_path: Path
) -> None:
    """What a script left and does not touch any more comes to S3 whole: large files, empty ones, folders."""
    # GIVEN
    mirror = mirrored(step=lambda: 120, look_seconds=LOOK_SECONDS)
    # WHEN
    (folder / "epoch-3").mkdir()
    (folder / "epoch-3" / "weights").write_bytes(os.urandom(2 * PART_BYTES + 17))
    (folder / "epoch-3" / "exact").write_bytes(os.urandom(PART_BYTES))
    (folder / "manifest.json").write_bytes(b"the script's own")
    (folder / "empty").write_bytes(b"")
    # THEN
    wanted = contents(folder)
    assert eventually(lambda: restored(aws, tmp_path / "other"), lambda found: found == wanted) == wanted
    newest = eventually(lambda: mirror.newest)
    assert newest is not None
    manifest = read_manifest(aws.client("s3"), bucket=aws.model_bucket, name=newest)
    assert (manifest.step, manifest.total_bytes) == (120, 3 * PART_BYTES + 17 + 16)
    assert mirror.trouble == ""
    mirror.close()
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoints"]


def test_hidden_files_links_and_devices_are_left_out(
    aws: Aws,
    folder: Path,
    mirrored: Callable[..., CheckpointMirror],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A script writes under a hidden name and renames; what lies elsewhere is not brought in by a link."""
    # GIVEN
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / ".writing").mkdir()
    (folder / ".writing" / "weights").write_bytes(b"half")
    (folder / "a").mkdir()
    (folder / "a" / ".half").write_bytes(b"half")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "above").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    (folder / "back").symlink_to(folder)
    (folder / "weights").write_bytes(b"whole")
    # WHEN
    assert result(mirrored().flush()) == named(1, 1)
    # THEN
    assert restored(aws, tmp_path / "other") == {"weights": b"whole"}
    # AND the log says which, once
    said = [record.getMessage() for record in caplog.records if "SM_CHECKPOINT_DIR" in record.getMessage()]
    assert sorted(said) == [
        "no checkpoint holds 'above' of SM_CHECKPOINT_DIR: "
        f"it is a link to {tmp_path.resolve()}, outside of the folder",
        "no checkpoint holds 'back' of SM_CHECKPOINT_DIR: it is a link that leads back to where it is",
        "no checkpoint holds 'link' of SM_CHECKPOINT_DIR: "
        f"it is a link to {(tmp_path / 'secret').resolve()}, outside of the folder",
        "no checkpoint holds 'pipe' of SM_CHECKPOINT_DIR: it is neither a file nor a folder",
    ]


def test_links_inside_of_the_folder_come_back_as_files(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], tmp_path: Path
) -> None:
    """Libraries name their newest checkpoint by a link; and names may have any letters and spaces."""
    # GIVEN
    (folder / "epoch\u00a0=7, Ü").mkdir()
    (folder / "epoch\u00a0=7, Ü" / "weights").write_bytes(b"whole")
    (folder / "last").symlink_to("epoch\u00a0=7, Ü", target_is_directory=True)
    (folder / "last.ckpt").symlink_to(folder / "last" / "weights")
    # WHEN
    assert result(mirrored().flush()) == named(1, 1)
    # THEN
    assert restored(aws, tmp_path / "other") == {
        "epoch\u00a0=7, Ü/weights": b"whole",
        "last/weights": b"whole",
        "last.ckpt": b"whole",
    }


def test_nothing_is_uploaded_when_nothing_changed(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]
) -> None:
    """Neither by a second flush, nor by looks, nor by an agent that starts again."""
    # GIVEN
    (folder / "weights").write_bytes(b"1")
    mirror = mirrored(look_seconds=LOOK_SECONDS)
    assert result(mirror.flush()) == named(1, 1)
    # WHEN
    assert result(mirror.flush()) == named(1, 1)
    time.sleep(5 * LOOK_SECONDS)
    mirror.close()
    # THEN
    assert result(mirrored().flush()) == named(1, 1)
    assert state(aws) == [(1, 1, True)]


def test_what_was_restored_is_not_uploaded_again(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]
) -> None:
    """A later attempt, on a node that had nothing, begins to upload with the first new state."""
    # GIVEN
    (folder / "weights").write_bytes(b"1")
    mirror = mirrored()
    result(mirror.flush())
    mirror.close()
    (folder / "weights").unlink()
    # WHEN
    restored(aws, folder.parent)
    second = mirrored(attempt=2)
    # THEN
    assert result(second.flush()) == named(1, 1)
    (folder / "weights").write_bytes(b"2")
    assert result(second.flush()) == named(2, 1)


def test_script_that_leaves_nothing_has_no_checkpoint(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]
) -> None:
    """An empty folder is none, and one that was emptied leaves what S3 has."""
    # GIVEN
    mirror = mirrored()
    assert result(mirror.flush()) is None
    (folder / "weights").write_bytes(b"1")
    assert result(mirror.flush()) == named(1, 1)
    # WHEN
    (folder / "weights").unlink()
    # THEN
    assert result(mirror.flush()) == named(1, 1)
    assert state(aws) == [(1, 1, True)]


def test_sequence_goes_on_after_a_restart(aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]) -> None:
    """An agent that starts again in the same attempt overwrites nothing, not even what was left torn."""
    # GIVEN
    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.model_bucket, Key=named(2, 7).manifest_key, Body=b"{}")
    s3.put_object(Bucket=aws.model_bucket, Key=named(2, 8).file_key("weights"), Body=b"half")
    s3.put_object(Bucket=aws.model_bucket, Key=named(1, 40).manifest_key, Body=b"{}")
    (folder / "weights").write_bytes(b"1")
    # WHEN
    newest = result(mirrored(attempt=2).flush())
    # THEN what was torn is gone
    assert newest == named(2, 9)
    assert state(aws) == [(2, 9, True), (2, 7, True), (1, 40, True)]


def test_older_checkpoints_are_pruned(aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]) -> None:
    """The newest stay, with all their files; nothing is left of the others."""
    # GIVEN
    mirror = mirrored(keep=2)
    # WHEN
    for number in range(1, 6):
        (folder / "weights").write_bytes(b"%d" % number)
        assert result(mirror.flush()) == named(1, number)
    # THEN
    listed = aws.client("s3").list_objects_v2(Bucket=aws.model_bucket)["Contents"]
    assert [item["Key"] for item in listed] == [
        key for number in (4, 5) for key in (named(1, number).file_key("weights"), named(1, number).manifest_key)
    ]


def test_leader_that_was_given_up_harms_nobody(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], tmp_path: Path
) -> None:
    """It writes late, below its own attempt: what the next attempt wrote is restored, and stays."""
    # GIVEN
    s3 = aws.client("s3")
    (folder / "weights").write_bytes(b"of attempt 2")
    second = mirrored(attempt=2, keep=1)
    assert result(second.flush()) == named(2, 1)
    second.close()
    # WHEN
    (folder / "weights").write_bytes(b"of attempt 1, late")
    assert result(mirrored(attempt=1, keep=1).flush()) == named(1, 1)
    # THEN
    assert named(2, 1) in [each.name for each in list_checkpoints(s3, bucket=aws.model_bucket, run_id="run-1")]
    assert restored(aws, tmp_path / "other") == {"weights": b"of attempt 2"}


def test_files_that_are_replaced_meanwhile_do_not_disturb(folder: Path) -> None:
    """What is held stays as it was, whatever is renamed or removed."""
    # GIVEN
    (folder / "old").write_bytes(b"1")
    (folder / "gone").write_bytes(b"2")
    with held(folder, look(folder)) as holding:
        # WHEN
        (folder / ".new").write_bytes(b"3")
        (folder / ".new").rename(folder / "old")
        (folder / "gone").unlink()
        # THEN
        assert contents(holding) == {"old": b"1", "gone": b"2"}
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("change", ["add", "remove", "write", "replace"])
def test_fails_when_the_folder_is_no_longer_as_it_was_seen(folder: Path, change: str) -> None:
    """The files of two states never come together."""
    # GIVEN
    (folder / "a").write_bytes(b"1")
    (folder / "b").write_bytes(b"1")
    seen = look(folder)
    # WHEN
    if change == "add":
        (folder / "c").write_bytes(b"1")
    elif change == "remove":
        (folder / "b").unlink()
    elif change == "write":
        (folder / "b").write_bytes(b"12")
    else:
        (folder / ".b").write_bytes(b"2")
        os.utime(folder / ".b", ns=(seen[1].mtime_ns, seen[1].mtime_ns))
        (folder / ".b").rename(folder / "b")
    # THEN
    with pytest.raises(ChangedError), held(folder, seen):
        pass
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoints"]


def stand_still(s3: Any, *, before: str) -> tuple[threading.Event, threading.Event]:
    """Have the client stand still before each call of one action; tell when it does, and when it may go on."""
    reached, go_on = threading.Event(), threading.Event()

    def wait(**_: object) -> None:
        reached.set()
        assert go_on.wait(SECONDS)

    s3.meta.events.register_first(f"before-call.s3.{before}", wait)
    return reached, go_on


def test_state_that_is_overwritten_during_its_upload_is_given_up(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], tmp_path: Path
) -> None:
    """A plain script writes over its file in place: what was read is not completed, the next state is."""
    # GIVEN a client whose first upload stands still in the middle
    s3 = aws.client("s3")
    reached, go_on = stand_still(s3, before="UploadPart")
    (folder / "weights").write_bytes(b"1" * (12 * PART_BYTES))
    mirror = mirrored(s3=s3)
    flush = mirror.flush()
    assert reached.wait(SECONDS)
    # WHEN
    (folder / "weights").write_bytes(b"2" * (12 * PART_BYTES))
    go_on.set()
    # THEN the flush brings the present state, under the next number
    assert result(flush) == named(1, 2)
    assert state(aws) == [(1, 2, True)]
    assert restored(aws, tmp_path / "other") == {"weights": b"2" * (12 * PART_BYTES)}


def test_upload_that_fails_is_tried_again(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], tmp_path: Path
) -> None:
    """S3's refusal is remembered in words and passes with the first success; a flush is told at once."""
    # GIVEN
    aws.client("s3").delete_bucket(Bucket=aws.model_bucket)
    (folder / "weights").write_bytes(b"1")
    mirror = mirrored(look_seconds=LOOK_SECONDS)
    assert "NoSuchBucket" in str(mirror.flush().exception(timeout=SECONDS))
    assert "NoSuchBucket" in mirror.trouble
    # WHEN
    aws.client("s3").create_bucket(Bucket=aws.model_bucket)
    # THEN
    mended = (named(1, 1), "")
    assert eventually(lambda: (mirror.newest, mirror.trouble), lambda seen: seen == mended) == mended
    assert restored(aws, tmp_path / "other") == {"weights": b"1"}


def test_name_that_no_key_can_have_is_told(folder: Path, mirrored: Callable[..., CheckpointMirror]) -> None:
    """A checkpoint without one of its files would be half: it is refused, with the name."""
    # GIVEN
    (folder / "we\nights").write_bytes(b"1")
    mirror = mirrored()
    # WHEN
    error = mirror.flush().exception(timeout=SECONDS)
    # THEN
    assert (
        str(error)
        == mirror.trouble
        == ("a checkpoint cannot hold a file at 'we\\nights': rename it, without control characters and in UTF-8")
    )


def test_notice_spares_the_second_look(folder: Path, mirrored: Callable[..., CheckpointMirror]) -> None:
    """A script that says that its checkpoint is whole has it in S3 before the next look."""
    # GIVEN looks that would come in an hour
    mirror = mirrored()
    result(mirror.flush())
    # WHEN
    (folder / "weights").write_bytes(b"1")
    mirror.notice()
    # THEN
    assert eventually(lambda: mirror.newest) == named(1, 1)


def test_flush_waits_until_nobody_writes(
    aws: Aws,
    folder: Path,
    mirrored: Callable[..., CheckpointMirror],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked for while ranks still write their last checkpoint."""
    # GIVEN a writer whose pauses are never as long as those that are taken for its end
    monkeypatch.setattr(mirror_module, "STILL_SECONDS", 3.0)
    mirror = mirrored()
    result(mirror.flush())
    flush = None
    with (folder / "weights").open("wb", buffering=0) as file:
        for number in range(20):
            file.write(b"%d" % (number % 10))
            flush = flush or mirror.flush()
            time.sleep(0.1)
    # WHEN
    assert flush is not None
    newest = result(flush)
    # THEN
    assert newest == named(1, 1)
    assert restored(aws, tmp_path / "other") == {"weights": b"0123456789" * 2}


def test_close_ends_an_upload_without_completing_it(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror]
) -> None:
    """What is left is torn; who waited for it is told, and so is who asks later."""
    # GIVEN a client that stands still in the middle
    s3 = aws.client("s3")
    reached, go_on = stand_still(s3, before="PutObject")
    (folder / "weights").write_bytes(b"1")
    mirror = mirrored(s3=s3)
    flush = mirror.flush()
    assert reached.wait(SECONDS)
    # WHEN
    mirror.close(wait_seconds=0)
    later = mirror.flush()
    go_on.set()
    # THEN
    assert later.cancelled()
    assert eventually(flush.cancelled)
    assert state(aws) == [(1, 1, False)]


def test_last_checkpoint_is_told_in_a_sentence(
    aws: Aws, folder: Path, mirrored: Callable[..., CheckpointMirror], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is; or that there is none, what went wrong, that time was up, and what is in S3 instead."""
    # GIVEN
    turns: list[int] = []

    def said(mirror: CheckpointMirror, *, seconds: float = SECONDS) -> str:
        return save_last_checkpoint(mirror, seconds=seconds, keep=lambda: turns.append(1))

    mirror = mirrored()
    address = f"s3://{aws.model_bucket}/checkpoints/run-1/"
    # WHEN / THEN
    assert said(mirror) == f"The script left no checkpoint in {folder}."
    (folder / "weights").write_bytes(b"1")
    assert said(mirror) == f"The last checkpoint is {address}0001-00000001/."
    assert turns
    older = f" The newest that is in S3 is {address}0001-00000001/."
    (folder / "we\nights").write_bytes(b"2")
    assert said(mirror) == (
        f"The checkpoints could not be uploaded to {address}: a checkpoint cannot hold a file at 'we\\nights': "
        f"rename it, without control characters and in UTF-8.{older}"
    )
    monkeypatch.setattr(mirror_module, "STILL_SECONDS", 600)
    assert said(mirror, seconds=-1) == (
        f"The checkpoints in {folder} could not be uploaded in the time that was left.{older}"
    )
    mirror.close()
    assert said(mirror) == f"The checkpoints in {folder} were not uploaded.{older}"


def test_stale_links_of_a_killed_agent_are_removed(folder: Path, mirrored: Callable[..., CheckpointMirror]) -> None:
    """They would keep the room of files that the script removed."""
    # GIVEN
    stale = folder.parent / ".checkpoints-held-abc"
    stale.mkdir()
    (stale / "weights").write_bytes(b"1")
    # WHEN
    mirrored()
    # THEN
    assert not stale.exists()
