"""A run stops before it costs more than it may, and leaves its checkpoints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_node import contract
from horovod_node.checkpoints.restore import restore
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.node.folders import Layout
from support.node.emulated_aws import id_of
from support.node.rings import Ring

COST = r"The run's instances cost 36\.00 USD an hour and had cost ([\d.]+) USD at 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ; "


def ceiling(*, seconds: float) -> CostCeiling:
    """Allow *seconds* of instances that cost 36 USD an hour, a cent a second."""
    return CostCeiling(usd_per_hour=36.0, billed_from=1_000.0, usd=seconds / 100, at=1_000.0 + seconds)


@pytest.mark.parametrize(
    ("seconds", "stop", "ranks_end", "upload_ends"),
    [(7_200, 7_080, 7_140, 7_188), (1_200, 1_080, 1_140, 1_188), (100, 90, 95, 99)],
)
def test_margin_is_two_minutes_or_a_tenth(seconds: int, stop: int, ranks_end: int, upload_ends: int) -> None:
    """Half of it is for the ranks, most of the rest for the upload."""
    # GIVEN
    limit = ceiling(seconds=seconds)
    # WHEN
    times = [limit.stop_at, limit.ranks_end_at, limit.upload_ends_at]
    # THEN
    assert [round(at - 1_000, 6) for at in times] == [stop, ranks_end, upload_ends]


@given(st.floats(1, 1e6))
def test_run_never_outlasts_its_ceiling(seconds: float) -> None:
    """Whatever a run may cost, it is told to stop, stopped and saved in this order, and before the end."""
    limit = ceiling(seconds=seconds)
    assert limit.billed_from < limit.stop_at < limit.ranks_end_at < limit.upload_ends_at < limit.at


def test_explanation_says_what_was_spent() -> None:
    """The price, the sum, the time and the limit."""
    # GIVEN
    limit = CostCeiling(usd_per_hour=4.02, billed_from=1_700_000_000, usd=12, at=1_700_010_746)
    # WHEN / THEN
    assert limit.explain(1_700_010_720) == (
        "The run's instances cost 4.02 USD an hour and had cost 11.97 USD at 2023-11-15T01:12:00Z; "
        "its max_cost_usd is 12 USD."
    )


def test_small_amounts_are_told_to_three_digits() -> None:
    """A cent or less is not nothing."""
    # GIVEN
    limit = CostCeiling(usd_per_hour=0.5266, billed_from=0, usd=0.015, at=102.5)
    # WHEN / THEN
    assert limit.explain(90).startswith("The run's instances cost 0.527 USD an hour and had cost 0.0132 USD at 1970-")


def restored(ring: Ring, folder: Path) -> tuple[str, dict[str, bytes]]:
    """Restore the run's newest checkpoint as a run does that resumes it; give its address, too."""
    layout, bucket = Layout(root=folder), ring.aws.model_bucket
    found = restore(ring.aws.client("s3"), layout=layout, bucket=bucket, run_id=id_of("another"), resume_from=ring.run)
    assert found is not None
    return found.name.uri(bucket), {path.name: path.read_bytes() for path in layout.checkpoints.iterdir()}


@pytest.mark.ring
@pytest.mark.slow
def test_ring_stops_before_its_ceiling_with_a_last_checkpoint(ring: Ring, tmp_path: Path) -> None:
    """Rank 0 writes its last checkpoint after SIGTERM, with the ring still whole; then all nodes stop."""
    # GIVEN
    ring.submit(steps=100_000)
    ring.start(nodes=2)
    ring.until_training()
    # WHEN
    ring.aws.put_ceiling(ring.run, billed_seconds=3000, seconds_left=126)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_COST_CEILING
    address, saved = restored(ring, tmp_path / "another")
    found = re.fullmatch(
        COST + rf"its max_cost_usd is 31\.26 USD\. The last checkpoint is {address}\.", failed["cause"]
    )
    assert found, failed["cause"]
    assert 30.0 < float(found[1]) < 31.26
    assert sorted(saved) == ["last.weights.h5", "step"]
    assert int(saved["step"]) > 0
    assert ring.agents[0].exit_code() == contract.EXIT_TRAINING_FAILED
    # The follower learns of the stop from the leader, or from its rank, which lost the ring.
    assert ring.agents[1].exit_code() in (contract.EXIT_RELEASED, contract.EXIT_TRAINING_FAILED)
    assert [agent.left() for agent in ring.agents] == [[], []]
    assert ring.answers.heartbeats(ring.token(contract.TASK_TRAIN))


@pytest.mark.slow
@pytest.mark.ring
def test_ranks_that_do_not_listen_are_killed_on_all_nodes(ring: Ring) -> None:
    """SIGTERM is a question; a follower whose ranks need no ring learns of the end through the ledger."""
    # GIVEN
    ring.submit(entry_point="count_steps.py", deaf=True)
    ring.start(nodes=2)
    ring.until_training()
    # WHEN
    ring.aws.put_ceiling(ring.run, billed_seconds=100, seconds_left=5)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_COST_CEILING
    folder = ring.agents[0].ml_root / "checkpoints"
    assert re.fullmatch(
        COST + rf"its max_cost_usd is 1\.05 USD\. The script left no checkpoint in {folder}\.", failed["cause"]
    )
    assert [agent.exit_code() for agent in ring.agents] == [contract.EXIT_TRAINING_FAILED, contract.EXIT_RELEASED]
    assert [agent.left() for agent in ring.agents] == [[], []]


@pytest.mark.slow
@pytest.mark.ring
def test_checkpoints_that_s3_refuses_hide_nothing(ring: Ring) -> None:
    """The run still ends with what it cost, and says that and why its checkpoints are not there."""
    # GIVEN
    ring.submit(gpus=1, entry_point="count_steps.py", checkpoint=True)
    ring.start(nodes=1)
    ring.until_training()
    ring.aws.client("s3").delete_bucket(Bucket=ring.aws.model_bucket)
    # WHEN
    ring.aws.put_ceiling(ring.run, billed_seconds=400, seconds_left=40)
    failed = ring.answer(contract.TASK_TRAIN)
    # THEN
    assert failed["error"] == contract.ERROR_COST_CEILING
    assert re.match(COST, failed["cause"])
    assert " The checkpoints could not be uploaded to s3://" in failed["cause"]
    assert "NoSuchBucket" in failed["cause"]


@pytest.mark.slow
@pytest.mark.ring
def test_models_upload_ends_with_the_ceiling(ring: Ring) -> None:
    """A model that is still on its way when the money is spent is no result."""
    # GIVEN a model whose packing alone takes minutes
    ring.submit(gpus=1, entry_point="count_steps.py", steps=5, model_bytes=10**12)
    ring.start(nodes=1)
    ring.asked(contract.TASK_RING)
    assert ring.asked(contract.TASK_TRAIN)["steps"] == 5
    # WHEN
    ring.aws.put_ceiling(ring.run, billed_seconds=100, seconds_left=5)
    failed = ring.asked(contract.TASK_SAVE)
    # THEN
    assert failed["error"] == contract.ERROR_COST_CEILING
    assert re.fullmatch(COST + r"its max_cost_usd is 1\.05 USD\. The model's upload had not ended\.", failed["cause"])
