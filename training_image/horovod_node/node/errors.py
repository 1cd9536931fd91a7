"""Exceptions that end an agent's part in an attempt."""

from __future__ import annotations

from horovod_node import contract

_EXIT_CODES = {
    contract.ERROR_PREFLIGHT: contract.EXIT_PREFLIGHT,
    contract.ERROR_NODE_FAILED: contract.EXIT_NODE_FAILED,
    contract.ERROR_LEADER_LOST: contract.EXIT_NODE_FAILED,
}


class UsageError(ValueError):
    """The environment is incomplete or contradictory; the message is one line for the person who set it up."""


class ReleasedError(Exception):
    """The fleet went to another run or attempt, or this attempt was given up: stop, and do not answer."""


class FinishedError(ReleasedError):
    """The fleet was released after this node, the leader, had done all of its part."""


class PartOverError(Exception):
    """The training succeeded and the run continues without this node: its instance is no longer needed."""


class LedgerUnreachableError(Exception):
    """The ledger could not be reached within the time for which calls are repeated."""


class RunError(Exception):
    """
    The run cannot succeed.

    Args:
        error: Name of the error, one of the contract's `ERROR_*`.
        message: One or more sentences for people.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


class LeaderLostError(RunError):
    """
    The leader of this attempt is gone, and with it the attempt.

    Args:
        message: One or more sentences for people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(contract.ERROR_LEADER_LOST, message)


def exit_code(error: str) -> int:
    """Return the agent's exit code for one of the contract's errors; any error not in the table is the script's."""
    return _EXIT_CODES.get(error, contract.EXIT_TRAINING_FAILED)
