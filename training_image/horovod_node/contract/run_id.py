"""What tells a run from every other one: its execution, not its name."""

from __future__ import annotations

from datetime import UTC, datetime

_STARTED = "%Y%m%dT%H%M%SZ"


def run_id(training: str, name: str, started: datetime) -> str:
    """
    Identify a run as `TRAINING/NAME/STARTED`, such as `StackTraining/digits/20261126T110236Z`.

    Step Functions takes an execution's name again after 90 days, and at once for a state machine that was deleted and
    created anew (API Reference, StartExecution). Buckets outlive both, and several trainings may share one. Keys of the
    ledger and of S3 therefore hold this id. Names of executions hold no '/' (same source), names of trainings are
    letters and digits.

    Args:
        training: Name of the training, `HorovodTraining.queue`.
        name: Name of the run's execution.
        started: When the execution started, with a time zone. Fractions of a second are cut off.
    """
    return f"{run_ids_prefix(training, name)}{started.astimezone(UTC).strftime(_STARTED)}"


def run_ids_prefix(training: str, name: str) -> str:
    """Name what the ids of all runs of this *name* in *training* begin with; the newest sorts last."""
    return f"{training_prefix(training)}{name}/"


def training_prefix(training: str) -> str:
    """Name what the ids of all runs of *training* begin with."""
    return f"{training}/"


def name_of(run_id: str) -> str:
    """Give the name, for people, of the run with this id."""
    return run_id.split("/")[1]


def training_of(run_id: str) -> str:
    """Name the training that the run with this id belongs to."""
    return run_id.partition("/")[0]
