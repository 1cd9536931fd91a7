"""
What a caller may have to handle; the text of each is written for people.

Errors of AWS itself (credentials, network, permissions) are botocore's and pass through unchanged.
"""
# ruff: noqa: N818 - each name says what happened, as the errors of a run do (`TrainingFailed`, `LeaderLost`)

from __future__ import annotations


class HorovodClientError(Exception):
    """Base of every error that this package raises."""


class InvalidInput(HorovodClientError, ValueError):
    """A user asked for what cannot run; nothing was uploaded or started."""


class ConnectionNotFound(HorovodClientError):
    """A user named a stack that is not there, holds no training, or holds several."""


class RunNotFound(HorovodClientError):
    """A user named a run that this training never had, or had more than 90 days ago."""


class RunEnded(HorovodClientError):
    """A user stopped a run that had ended."""


class ReceiptNotFound(HorovodClientError):
    """A user asked for the receipt of a run that has not written it, or not yet."""


class PricesUnknown(HorovodClientError):
    """A user asked for an estimate, and not one price could be had."""


class ScriptDoubtful(UserWarning):
    """A user started a run whose script may not do what a run is for; it goes on."""


class PricesMissing(UserWarning):
    """A user started a run whose prices nobody could tell: it goes on, but its cost ceiling may not be enforced."""


class ModelNotFound(HorovodClientError):
    """A user asked for the model of a run that has none, or none yet."""


class LogsNotFound(HorovodClientError):
    """A user asked for the logs of a training whose log group is not there."""


class RunFailed(HorovodClientError):
    """
    A run ended without a model.

    Args:
        run: Name of the run.
        state: How its execution ended: `FAILED`, `TIMED_OUT` or `ABORTED`.
        error: Name of the error, one of `ERROR_*` in `horovod_node.contract` unless AWS itself failed.
        cause: Sentences for people; the script's traceback when the script failed.
    """

    def __init__(self, *, run: str, state: str, error: str | None, cause: str | None) -> None:
        self.run = run
        self.state = state
        self.error = error
        self.cause = cause
        super().__init__(f"run '{run}' ended as {': '.join(part for part in (state, error, cause) if part)}")
