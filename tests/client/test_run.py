"""Watching a run, waiting for it, stopping it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from horovod_client import (
    InvalidInput,
    ReceiptNotFound,
    Run,
    RunEnded,
    RunFailed,
    RunNotFound,
    RunStatus,
    TrainingClient,
)
from horovod_node import contract
from support.fake_account import Account

QUICK = 0.05
"""Seconds between two looks, where the run needs less than the default's five to end."""


def test_tells_the_state_before_there_is_a_stage(client: TrainingClient, script: Path) -> None:
    """A run that is not in the ledger yet is running, without a stage."""
    # GIVEN
    run = client.fit(script, gpus=4, name="status-new")

    # THEN
    status = run.status()
    assert status.started_at is not None
    assert status == RunStatus(run="status-new", state="RUNNING", started_at=status.started_at)


def test_reads_the_stage_from_the_ledger(account: Account, client: TrainingClient, script: Path) -> None:
    """The stage is the one that the state machine wrote last."""
    # GIVEN
    run = client.fit(script, gpus=4, name="status-training")
    account.set_stage(client.connection, run.name, contract.STAGE_TRAINING)

    # WHEN
    status = run.status()

    # THEN
    assert (status.stage, status.phase) == ("training", "training")
    assert not status.ended


def test_tells_the_place_in_the_line(account: Account, client: TrainingClient, script: Path) -> None:
    """A queued run knows how many come first; of two that came at once, the lower name is first."""
    # GIVEN
    run = client.fit(script, gpus=4, name="status-queued")
    account.set_stage(client.connection, run.name, contract.STAGE_QUEUED)
    lines: list[tuple[dict[str, int], int | None]] = [
        ({"status-queued": 5}, 1),
        ({"status-queued": 5, "earlier": 4, "later": 6}, 2),
        ({"status-queued": 5, "a-run-of-the-same-time": 5, "too": 5}, 2),
        ({"status-queued": 10, "b": 9, "c": 2}, 3),
        ({"another": 1}, None),
        ({}, None),
    ]

    # WHEN
    found: list[RunStatus] = []
    for places, _ in lines:
        account.set_line(client.connection, places)
        found.append(run.status())

    # THEN
    assert [(status.phase, status.place) for status in found] == [("queue", place) for _, place in lines]


def test_has_no_place_when_it_does_not_wait(account: Account, client: TrainingClient, script: Path) -> None:
    """A run that trains, or was stopped while it waited, has no place in the queue, whatever the ledger says."""
    # GIVEN
    training, stopped = (client.fit(script, gpus=4, name=name) for name in ("place-training", "place-stopped"))
    account.set_line(client.connection, {training.name: 1, stopped.name: 2})
    account.set_stage(client.connection, training.name, contract.STAGE_TRAINING)
    account.set_stage(client.connection, stopped.name, contract.STAGE_QUEUED)

    # WHEN
    stopped.stop()

    # THEN
    assert [run.status().place for run in (training, stopped)] == [None, None]


def test_tells_what_was_not_done(account: Account, client: TrainingClient, script: Path) -> None:
    """The state machine's remarks on a run are part of its status."""
    # GIVEN
    run = client.fit(script, gpus=4, name="status-notice")
    account.set_stage(client.connection, run.name, contract.STAGE_TRAINING, notice="No price is known for g5.xlarge.")

    # THEN
    assert run.status().notice == "No price is known for g5.xlarge."


def test_waits_for_the_model(account: Account, client: TrainingClient, script: Path) -> None:
    """`wait` returns when the run has succeeded, with the address of its model."""
    # GIVEN
    run = client.fit(script, gpus=4, hyperparameters={"outcome": "success"}, name="wait-success")

    # WHEN
    status = run.wait(poll_seconds=QUICK)

    # THEN
    started = account.stepfunctions.describe_execution(executionArn=run.execution_arn)["startDate"]
    run_id = contract.run_id(client.connection.queue, "wait-success", started)
    uri = f"s3://{client.connection.model_bucket}/runs/{run_id}/model.tar.gz"
    assert (status.state, status.model_uri) == ("SUCCEEDED", uri)
    assert run.model_uri == uri


def test_raises_what_the_run_failed_of(client: TrainingClient, script: Path) -> None:
    """`wait` raises the error and the cause of a run that failed, word by word."""
    # GIVEN
    run = client.fit(script, gpus=4, hyperparameters={"outcome": "failure"}, name="wait-failure")

    # WHEN
    with pytest.raises(RunFailed, match=r"^run 'wait-failure' ended as FAILED: TrainingFailed: Traceback") as failure:
        run.wait(poll_seconds=QUICK)

    # THEN
    assert (failure.value.run, failure.value.state, failure.value.error) == ("wait-failure", "FAILED", "TrainingFailed")
    assert failure.value.cause == "Traceback (most recent call last):\n  …\nValueError: no digits"


def test_reports_each_change_once(account: Account, client: TrainingClient, script: Path) -> None:
    """A watcher is told of each new state and stage once, however often the run is polled."""
    # GIVEN
    run = client.fit(script, gpus=4, name="wait-changes")
    stages = iter([contract.STAGE_QUEUED, contract.STAGE_TRAINING])
    heard: list[tuple[str, str | None]] = []

    def go_on(status: RunStatus) -> None:
        heard.append((status.state, status.stage))
        stage = next(stages, None)
        if stage is not None:
            account.set_stage(client.connection, run.name, stage)
        elif not status.ended:
            account.stepfunctions.stop_execution(executionArn=run.execution_arn)

    # WHEN
    with pytest.raises(RunFailed, match=r"^run 'wait-changes' ended as ABORTED$"):
        run.wait(go_on, poll_seconds=QUICK)

    # THEN
    assert heard == [("RUNNING", None), ("RUNNING", "queued"), ("RUNNING", "training"), ("ABORTED", "training")]


def test_stops_a_run_with_a_cause(account: Account, client: TrainingClient, script: Path) -> None:
    """A stopped run is over, and Step Functions was told why."""
    # GIVEN
    client.fit(script, gpus=4, name="stop-running")
    stepfunctions = account.session.client("stepfunctions", endpoint_url=account.endpoint)
    sent: list[dict[str, Any]] = []
    # moto 5.2.5 drops the cause of a stop, so that what was sent is all there is to look at.
    stepfunctions.meta.events.register(
        "provide-client-params.stepfunctions.StopExecution", lambda params, **_: sent.append(params)
    )
    run = Run.from_id(
        "stop-running",
        client=TrainingClient(client.connection, dynamodb=account.dynamodb, s3=account.s3, stepfunctions=stepfunctions),
    )

    # WHEN
    run.stop("wrong data")

    # THEN
    assert run.status().state == "ABORTED"
    assert sent == [{"executionArn": run.execution_arn, "error": "StoppedByUser", "cause": "wrong data"}]


def test_fails_to_stop_what_is_over(client: TrainingClient, script: Path) -> None:
    """A run that ended cannot be stopped, and the sentence says how it ended."""
    # GIVEN
    run = client.fit(script, gpus=4, name="stop-ended")
    run.stop()

    # THEN
    with pytest.raises(RunEnded, match=r"^run 'stop-ended' has ended: ABORTED$"):
        run.stop()


def test_finds_a_run_again_by_its_name(client: TrainingClient, script: Path) -> None:
    """A run can be found by its name alone."""
    # GIVEN
    started = client.fit(script, gpus=4, name="find-again")

    # WHEN
    found = Run.from_id("find-again", client=client)

    # THEN
    assert found.execution_arn == started.execution_arn
    assert found.status() == started.status()
    assert Run.from_id("find-again", stack="Training").execution_arn == started.execution_arn


def test_fails_when_there_is_no_such_run(client: TrainingClient) -> None:
    """A run that does not exist is named, and a name that no run can have is refused without asking AWS."""
    with pytest.raises(RunNotFound, match=r"^there is no run 'never' in the last 90 days: cdk-horovod ls "):
        Run.from_id("never", client=client).status()
    with pytest.raises(
        InvalidInput, match=r"^'name' must be 1 to 80 letters .a-z, A-Z., digits, '-' and '_', got 'a run'$"
    ):
        Run.from_id("a run", client=client)
    with pytest.raises(InvalidInput, match=r"^'client' or 'stack' must be given, got neither$"):
        Run.from_id("never")


def test_reads_the_receipt(
    client: TrainingClient, receipt: dict[str, Any], write_receipt: Callable[[dict[str, Any]], None]
) -> None:
    """The receipt is what the state machine wrote, as a dictionary."""
    # GIVEN
    receipt["run"] = "receipt-there"
    write_receipt(receipt)

    # WHEN
    found = Run.from_id("receipt-there", client=client).receipt()

    # THEN
    assert found == receipt


def test_fails_when_there_is_no_receipt_yet(client: TrainingClient, script: Path) -> None:
    """The error for a run without a receipt says when there will be one."""
    # GIVEN
    run = client.fit(script, gpus=4, name="receipt-yet")
    # WHEN / THEN while it runs
    with pytest.raises(
        ReceiptNotFound, match=r"^run 'receipt-yet' has no receipt: it is still running, and writes its receipt when"
    ):
        run.receipt()
    # AND after it was stopped
    run.stop()
    with pytest.raises(
        ReceiptNotFound, match=r"^run 'receipt-yet' has no receipt: it ended; the clean-up writes it once"
    ):
        run.receipt()
    # AND of a run that does not exist
    with pytest.raises(RunNotFound, match=r"^there is no run 'receipt-never' in the last 90 days: cdk-"):
        Run.from_id("receipt-never", client=client).receipt()


def test_name_that_was_used_again_means_the_newest_run(
    account: Account, client: TrainingClient, script: Path, receipt: dict[str, Any]
) -> None:
    """Items that an older run of the same name left are not taken for this run's."""
    # GIVEN
    old = contract.run_id(client.connection.queue, "used-again", datetime(2026, 1, 1, tzinfo=UTC))
    account.s3.put_object(
        Bucket=client.connection.model_bucket, Key=contract.receipt_key(old), Body=json.dumps(receipt).encode()
    )
    # WHEN / THEN Step Functions has forgotten that run
    forgotten = Run.from_id("used-again", client=client)
    assert (forgotten.run_id, forgotten.receipt()["run"]) == (old, receipt["run"])
    # AND its name is taken again
    run = client.fit(script, gpus=4, name="used-again")
    assert run.run_id > old
    with pytest.raises(ReceiptNotFound):
        run.receipt()
