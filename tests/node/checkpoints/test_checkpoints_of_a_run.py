"""Checkpoints as the agents of a whole run make and restore them."""

from __future__ import annotations

from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.checkpoints.manifest import Manifest, complete_checkpoints, read_manifest
from support.node.emulated_aws import Aws, TaskAnswers
from support.node.rings import Ring, wait_for

pytestmark = pytest.mark.ring


def newest(ring: Ring) -> tuple[Manifest, str]:
    """Give the run's newest checkpoint, and the step that the script wrote into it."""
    s3, bucket = ring.aws.client("s3"), ring.aws.model_bucket
    complete = complete_checkpoints(s3, bucket=bucket, run_id=ring.run_id)
    assert complete, ring.log()
    name = complete[0]
    body = s3.get_object(Bucket=bucket, Key=name.file_key("step"))["Body"].read()
    return read_manifest(s3, bucket=bucket, name=name), body.decode()


def test_run_that_succeeds_leaves_its_last_checkpoint(ring: Ring) -> None:
    """Before the model is told to be saved, so is the last state, for a run that trains on from there."""
    # GIVEN a script that never stops writing
    ring.submit(gpus=1, entry_point="count_steps.py", checkpoint=True, steps=30, model_bytes=1000)
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    ring.asked(contract.TASK_TRAIN)
    # WHEN
    saved = ring.asked(contract.TASK_SAVE)
    # THEN
    assert saved["key"] == contract.model_key(ring.run_id)
    manifest, step = newest(ring)
    assert (manifest.name.attempt, manifest.step, step) == (1, 30, "30")


def test_run_that_fails_leaves_its_last_checkpoint(ring: Ring) -> None:
    """The failure is answered when it is in S3: a run may resume it."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", checkpoint=True, steps=30, end="exit")
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    # WHEN
    failed = ring.asked(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_TRAINING_FAILED
    assert newest(ring)[1] == "30"


def test_all_nodes_begin_with_what_they_resume(
    ring: Ring, aws: Aws, answers: TaskAnswers, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Followers too: scripts read their checkpoints on every rank."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", checkpoint=True, steps=10, end="exit")
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    ring.asked(contract.TASK_TRAIN)
    second = Ring(aws=aws, answers=answers, folder=tmp_path / "second", fleet="another")
    request.addfinalizer(second.close)
    second.folder.mkdir()
    # WHEN
    second.submit(gpus=2, entry_point="count_steps.py", resume_from=ring.run)
    second.start(nodes=2)
    second.until_training()
    # THEN
    found = [(agent.ml_root / "checkpoints" / "step").read_text() for agent in second.agents]
    assert found == ["10", "10"]


def test_later_attempt_goes_on_from_the_newest(ring: Ring) -> None:
    """The same agent joins again: what its ranks wrote since the last checkpoint does not win over S3."""
    # GIVEN a run whose first attempt is given up; its last state was never mirrored
    ring.submit(gpus=1, entry_point="count_steps.py", steps=1_000_000)
    ring.start(nodes=1)
    ring.until_training()
    folder = ring.agents[0].ml_root / "checkpoints"
    (folder / "step").write_text("7")
    manifest = mirrored(ring)
    (folder / ".half").write_text("8")
    # WHEN
    ring.aws.put_lease(ring.fleet, run=ring.run, attempt=2)
    restored(ring, manifest)
    # THEN
    assert (folder / "step").read_text() == "7"
    assert not (folder / ".half").exists()


def test_fails_when_the_run_to_resume_is_unknown(ring: Ring) -> None:
    """It is told before there is a ring."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", resume_from="no-such-run")
    # WHEN
    ring.start(nodes=1)
    failed = ring.asked(contract.TASK_RING)
    # THEN
    assert failed["error"] == contract.ERROR_DATA_NOT_FOUND
    assert failed["cause"].startswith("'resume_from' is no-such-run, of which there is no complete checkpoint: s3://")


def mirrored(ring: Ring) -> Manifest:
    """Wait for a checkpoint."""
    s3, bucket = ring.aws.client("s3"), ring.aws.model_bucket
    (name, *_) = wait_for("a checkpoint", lambda: complete_checkpoints(s3, bucket=bucket, run_id=ring.run_id))
    return read_manifest(s3, bucket=bucket, name=name)


def restored(ring: Ring, manifest: Manifest) -> None:
    """Wait until the agent has restored *manifest*."""
    wait_for("the restored checkpoint", lambda: f"restored {manifest.name.uri(ring.aws.model_bucket)}: " in ring.log())
