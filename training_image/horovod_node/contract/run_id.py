"""The unique id of a run. Its name is not unique."""

from __future__ import annotations

from datetime import UTC, datetime

_STARTED = "%Y%m%dT%H%M%SZ"


def run_id(training: str, name: str, started: datetime) -> str:
    """
    Return a run's id `TRAINING/NAME/STARTED`, such as `StackTraining/digits/20261126T110236Z`.

    Keys of the ledger and of S3 hold this id, because a name is not unique. Step Functions allows an execution's name
    again after 90 days, and at once in a state machine that was deleted and created again (API Reference,
    StartExecution). Buckets outlive both, and several trainings may share one. Names of executions have no '/' (same
    source); names of trainings have only letters and digits.

    Args:
        training: Name of the training, `HorovodTraining.queue`.
        name: Name of the run's execution.
        started: When the execution started, with a time zone. Fractions of a second are dropped.
    """
    return f"{run_ids_prefix(training, name)}{started.astimezone(UTC).strftime(_STARTED)}"


def run_ids_prefix(training: str, name: str) -> str:
    """Return the prefix of the ids of all runs of this *name* in *training*; the newest sorts last."""
    return f"{training_prefix(training)}{name}/"


def training_prefix(training: str) -> str:
    """Return the prefix of the ids of all runs of *training*."""
    return f"{training}/"


def name_of(run_id: str) -> str:
    """Return the name of the run with this id."""
    return run_id.split("/")[1]


def training_of(run_id: str) -> str:
    """Return the name of the training of the run with this id."""
    return run_id.partition("/")[0]
