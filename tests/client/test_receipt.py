"""The receipt, as people read it."""

from __future__ import annotations

from typing import Any

import pytest

from horovod_client import HorovodClientError, render_receipt
from support.receipts import validate_receipt


def test_renders_a_run_that_went_well(receipt: dict[str, Any]) -> None:
    """The receipt shows outcome, model, ring, nodes and times."""
    assert render_receipt(receipt).splitlines() == [
        "run digits-1 succeeded",
        "started     2025-03-01 10:00 UTC",
        "model       s3://models/runs/digits-1/model.tar.gz (1.2 MB, 3 files)",
        "ring        8 GPUs, 8 ranks, 1200 steps, 1 attempt on fleet TrainingFleet",
        "cost        7.40 USD, 7.23 USD an hour",
        "on-demand   10.00 USD, Spot saved 2.60 USD (26%)",
        "  node  gpus  type           market     zone        from          until         usd",
        "  i-0a  4     g5.12xlarge    on-demand  eu-west-1a  10:00:45 UTC  11:02:34 UTC  5.15  leader",
        "  i-0b  4     g4dn.12xlarge  spot       eu-west-1b  10:00:50 UTC  11:02:05 UTC  2.25",
        "GPU time    29000 GPU-seconds billed, 26100 useful, 90%",
        "       2.5 s  in queue",
        "      40.0 s  waiting for capacity",
        "      20.0 s  booting",
        "      30.0 s  pulling the image",
        "      26.5 s  joining",
        "    3600.0 s  training",
        "       4.0 s  saving",
        "      30.0 s  terminating",
        "image       training@sha256:abc",
        "library     cdk-horovod 0.5.0",
    ]
    # AND it is as the schema says
    validate_receipt(receipt)


def test_renders_a_run_that_failed(receipt: dict[str, Any]) -> None:
    """Error and cause come first, and parts that never happened are left out."""
    # GIVEN
    for name in ("model", "ranks", "steps", "cost", "image", "library_version"):
        del receipt[name]
    receipt["seconds"] = {"queue": 2.5, "lost": 60, "train": 7.25, "terminate": 30}
    receipt |= {"outcome": "failed", "error": "TrainingFailed", "cause": "Traceback:\nValueError: no digits\n"}

    # WHEN
    lines = render_receipt(receipt).splitlines()

    # THEN
    assert lines[:5] == [
        "run digits-1 failed: TrainingFailed",
        "  Traceback:",
        "  ValueError: no digits",
        "started     2025-03-01 10:00 UTC",
        "ring        8 GPUs, 1 attempt on fleet TrainingFleet",
    ]
    assert lines[-4:] == [
        "       2.5 s  in queue",
        "      60.0 s  in lost attempts",
        "       7.2 s  training",
        "      30.0 s  terminating",
    ]


def test_renders_what_became_of_the_ring(receipt: dict[str, Any]) -> None:
    """The receipt shows sizes, repeated and resumed steps, interruption notices and the slowest rank."""
    # GIVEN
    receipt["ring"] = {
        "elastic": True,
        "resets": 2,
        "smallest": 4,
        "largest": 8,
        "repeated_steps": 7,
        "resumed": {"run": "digits-0", "step": 600},
        "interruptions": [{"node": "i-0b", "kind": "instance-action", "at": 1740823200, "left_in_order": True}],
        "slowest": {
            "rank": 5,
            "node": "i-0b",
            "instance_type": "g4dn.12xlarge",
            "seconds_per_step": 0.2412,
            "median_seconds_per_step": 0.12,
            "cost": 0.41,
        },
    }
    # WHEN
    lines = render_receipt(receipt).splitlines()
    # THEN
    assert lines[9:13] == [
        "  elastic: 4 to 8 GPUs, 2 ring resets, 7 repeated steps",
        "  resumed from a checkpoint of run digits-0, step 600",
        "  i-0b got an interruption notice (instance-action), and left in order",
        "  slowest rank: 5 on i-0b (g4dn.12xlarge), 0.241 s a step, the median is 0.12 s; the others waited for it in "
        "41% of the ring's time",
    ]


def test_undisturbed_ring_is_told_in_a_few_words(receipt: dict[str, Any]) -> None:
    """A ring of one size shows one number, and no slowest rank if nobody waited for it."""
    # GIVEN
    slowest = {"rank": 1, "node": "i-0b", "instance_type": "g5.xlarge", "seconds_per_step": 0.12, "cost": 0.004}
    ring = {"elastic": True, "resets": 1, "smallest": 8, "largest": 8, "repeated_steps": 1, "slowest": slowest}
    # THEN
    assert render_receipt(receipt | {"ring": ring}).splitlines()[9:10] == [
        "  elastic: 8 GPUs, 1 ring reset, 1 repeated step"
    ]
    assert "slowest" not in render_receipt(receipt | {"ring": ring})


def test_renders_a_run_that_never_had_a_node() -> None:
    """A run that failed in the queue has neither nodes nor times beyond its start."""
    # GIVEN
    receipt = {
        "version": 2,
        "run": "digits-2",
        "outcome": "failed",
        "error": "QueueTimeout",
        "cause": "the fleet was held by run digits-1",
        "fleet": "TrainingFleet",
        "attempts": 0,
        "times": {"started_at": "2025-03-01T10:00:00.000Z"},
    }

    # THEN
    assert render_receipt(receipt).splitlines() == [
        "run digits-2 failed: QueueTimeout",
        "  the fleet was held by run digits-1",
        "started     2025-03-01 10:00 UTC",
        "ring        none, 0 attempts on fleet TrainingFleet",
    ]


def test_renders_what_a_run_cost(receipt: dict[str, Any]) -> None:
    """Cost and ceiling stand together, and a ceiling that was not enforced is explained in the workflow's words."""
    # GIVEN
    priced = receipt | {"cost": {"ceiling_usd": 12.5, "usd_per_hour": 7.234, "usd": 7.4}}
    cheap = receipt | {"cost": {"usd": 0.0012, "on_demand_usd": 0.0012, "saved_usd": 0}}
    unknown = receipt | {"notice": "The ceiling of 5 USD is not watched."}

    # THEN
    assert render_receipt(priced).splitlines()[4] == ("cost        7.40 USD, ceiling 12.50 USD, 7.23 USD an hour")
    assert render_receipt(cheap).splitlines()[4:6] == ["cost        0.0012 USD", "on-demand   0.0012 USD"]
    assert render_receipt(unknown).splitlines()[-1] == "notice      The ceiling of 5 USD is not watched."


def test_renders_the_search_for_capacity_and_restarts(receipt: dict[str, Any]) -> None:
    """Each capacity attempt is shown with EC2's words if there were several, and each lost attempt."""
    # GIVEN
    formed = {"words": "Spot in any zone", "seconds": 40, "outcome": "formed", "said": ""}
    refused = {"words": "Spot in any zone", "seconds": 600, "outcome": "capacity", "said": "There is no Spot capacity."}
    lost = {"attempt": 1, "error": "LeaderLost", "cause": "No heartbeat.\nSee its log."}

    # WHEN
    at_once = render_receipt(receipt | {"capacity": [formed]})
    later = render_receipt(receipt | {"capacity": [refused, formed], "restarts": [lost]}).splitlines()

    # THEN
    assert at_once == render_receipt(receipt)
    assert [line for line in later if line.startswith(("capacity", "restart"))] == [
        "capacity    Spot in any zone, 600 s, capacity: There is no Spot capacity.",
        "capacity    Spot in any zone, 40 s, formed",
        "restart     after attempt 1: LeaderLost: No heartbeat.",
    ]


def test_renders_attempts_in_several_fleets(receipt: dict[str, Any]) -> None:
    """Where a run went from one fleet to another, each attempt names its own."""
    refused = {"fleet": "Mine", "words": "Spot", "seconds": 600, "outcome": "capacity", "said": "There is none."}
    formed = {"fleet": "sagemaker-1", "words": "Spot", "seconds": 40, "outcome": "formed", "said": ""}
    # WHEN
    lines = render_receipt(receipt | {"capacity": [refused, formed]}).splitlines()
    # THEN
    assert [line for line in lines if line.startswith("capacity")] == [
        "capacity    Mine: Spot, 600 s, capacity: There is none.",
        "capacity    sagemaker-1: Spot, 40 s, formed",
    ]


@pytest.mark.parametrize("writer", ["clean-up", "reaper"])
def test_renders_a_run_that_was_stopped(writer: str) -> None:
    """A receipt that clean-up or reaper wrote says so, and leaves out what they do not know."""
    # GIVEN
    receipt = {
        "version": 2,
        "written_by": writer,
        "run": "digits-3",
        "execution": "arn:aws:states:eu-west-1:123456789012:execution:TrainingRun:digits-3",
        "outcome": "failed",
        "error": "StoppedByUser",
        "cause": "wrong data",
        "request": {"gpus": 8},
        "fleet": "TrainingFleet",
        "times": {
            "started_at": "2025-03-01T10:00:00.000Z",
            "stopped_at": "2025-03-01T10:01:00.000Z",
            "terminated_at": "2025-03-01T10:01:30.5Z",
        },
        "seconds": {"queue": 12, "capacity": 48, "terminate": 30.5},
    }

    # THEN
    assert render_receipt(receipt).splitlines() == [
        "run digits-3 failed: StoppedByUser",
        "  wrong data",
        "started     2025-03-01 10:00 UTC",
        "fleet       TrainingFleet",
        "      12.0 s  in queue",
        "      48.0 s  waiting for capacity",
        "      30.5 s  terminating",
        f"written by  the {writer}, after the execution had ended",
    ]


def test_renders_whatever_is_missing(receipt: dict[str, Any]) -> None:
    """A receipt may lack every key but its version."""
    # GIVEN
    receipt |= {
        "written_by": "workflow",
        "notice": "No price is known.",
        "cost": {"ceiling_usd": 5, "usd_per_hour": 1, "spent_usd": 2},
    }

    # WHEN
    without_one = [
        render_receipt({key: receipt[key] for key in receipt if key != gone}) for gone in receipt.keys() - {"version"}
    ]
    hollow = render_receipt(
        {key: {} for key in ("model", "cost", "times", "seconds", "gpu_seconds")} | {"version": 2, "nodes": [{}]}
    )

    # THEN
    assert all(text.startswith("run ") for text in without_one)
    assert render_receipt({"version": 2}) == "run ended"
    assert hollow.splitlines()[0] == "run ended"


@pytest.mark.parametrize(
    ("size", "shown"), [(1, "1 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_renders_the_size_of_the_model(receipt: dict[str, Any], size: float, shown: str) -> None:
    """Sizes are shown in the unit that fits."""
    # GIVEN
    receipt["model"] |= {"bytes": size, "files": 1}

    # THEN
    assert f"({shown}, 1 file)" in render_receipt(receipt)


def test_fails_when_the_receipt_is_of_another_version(receipt: dict[str, Any]) -> None:
    """A receipt of a newer release is refused."""
    # GIVEN
    receipt["version"] = 3

    # THEN
    with pytest.raises(HorovodClientError, match=r"^the receipt has version 3, but this client supports 2: "):
        render_receipt(receipt)
