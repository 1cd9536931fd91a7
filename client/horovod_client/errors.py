"""
Errors and warnings of this package; the text of each is a sentence for people.

AWS's own errors (credentials, network, permissions) are botocore's and pass through unchanged.
"""
# ruff: noqa: N818 - each name says what happened, as the errors of a run do (`TrainingFailed`, `LeaderLost`)

from __future__ import annotations


class HorovodClientError(Exception):
    """Base class of every error that this package raises."""


class InvalidInput(HorovodClientError, ValueError):
    """The request or an argument is invalid; nothing was uploaded or started."""


class ConnectionNotFound(HorovodClientError):
    """The stack does not exist, has no training, or has several and none was chosen."""


class RunNotFound(HorovodClientError):
    """The training has no run of this name, or had it more than 90 days ago."""


class RunEnded(HorovodClientError):
    """The run to stop has already ended."""


class ReceiptNotFound(HorovodClientError):
    """The run has no receipt, or none yet."""


class PricesUnknown(HorovodClientError):
    """An estimate is impossible because no price is known."""


class ScriptDoubtful(UserWarning):
    """The script may not train on the ring or may leave no model; the run starts anyway."""


class PricesMissing(UserWarning):
    """A price could not be looked up: the run starts anyway, but its cost ceiling may not be enforced."""


class ModelNotFound(HorovodClientError):
    """The run has no model, or none yet."""


class LogsNotFound(HorovodClientError):
    """The training's log group does not exist."""


class RunFailed(HorovodClientError):
    """
    A run ended without a model.

    Args:
        run: Name of the run.
        state: How its execution ended: `FAILED`, `TIMED_OUT` or `ABORTED`.
        error: Name of the error: one of `ERROR_*` in `horovod_node.contract`, or AWS's own.
        cause: Explanation for people; if the script failed, its traceback.
    """

    def __init__(self, *, run: str, state: str, error: str | None, cause: str | None) -> None:
        self.run = run
        self.state = state
        self.error = error
        self.cause = cause
        super().__init__(f"run '{run}' ended as {': '.join(part for part in (state, error, cause) if part)}")
