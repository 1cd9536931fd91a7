"""What a status prints for people."""

from __future__ import annotations

import pytest

from horovod_client import Holder, RunStatus, Spend, TrainingProgress
from horovod_client.status.describe import describe_run


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (RunStatus(run="r", state="RUNNING"), "run r: RUNNING"),
        (
            RunStatus(
                run="r",
                state="RUNNING",
                stage="queued",
                phase="queue",
                place=1,
                holders=(Holder(fleet="Big", run="other", since=940),),
            ),
            "run r: RUNNING, queued, waiting for a fleet: next in the queue, run other has held Big for 60 s",
        ),
        (
            RunStatus(
                run="r",
                state="RUNNING",
                stage="training",
                phase="training",
                progress=TrainingProgress(step=120, steps=400, ranks=2, resets=1, eta_seconds=150),
                spend=Spend(usd=1.5, usd_per_hour=2.0),
            ),
            "run r: RUNNING, training, step 120/400, 2 ranks, 1 ring reset, 2 min left, "
            "spent 1.50 USD, 2.00 USD an hour now",
        ),
        (
            RunStatus(run="r", state="FAILED", error="TrainingFailed", cause="Rank 0 failed\n\nTraceback"),
            "run r: FAILED: TrainingFailed: Rank 0 failed",
        ),
        (
            RunStatus(run="r", state="SUCCEEDED", model_uri="s3://m/model.tar.gz"),
            "run r: SUCCEEDED: s3://m/model.tar.gz",
        ),
    ],
)
def test_run_is_told_in_one_line(status: RunStatus, line: str) -> None:
    """The line says where a run is, what it waits for, its progress and its cost, or how it ended."""
    assert describe_run(status, now=1000.0) == line


def test_printed_status_is_that_line() -> None:
    """`run.wait(on_progress=print)` prints that line, and `repr` gives the fields."""
    status = RunStatus(run="r", state="RUNNING", stage="training", phase="training")
    assert str(status) == "run r: RUNNING, training"
    assert repr(status).startswith("RunStatus(run='r', state='RUNNING', stage='training'")
