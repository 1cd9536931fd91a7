"""A node's record of a failure, and the choice of the failure that caused the others."""

from __future__ import annotations

import errno
import json
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from horovod_node import contract
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.stall import RankStack, describe_stall

_log = logging.getLogger(__name__)

Origin = Literal["script", "killed", "node", "stall", "ring"]
ORIGINS: Final[tuple[Origin, ...]] = ("script", "killed", "node", "stall", "ring")
"""
Where a failure came from, the most likely cause of the others first.

A rank whose script failed ("script") or that a signal ended ("killed"), and a node that failed or vanished ("node")
make the other ranks fail. Ranks that stand still ("stall") may be waiting for such a rank or node. Ranks that lost the
ring ("ring") are always the consequence of another failure.
"""
REASONS: Final[tuple[Origin, ...]] = ("script", "killed", "node")
"""Origins of failures that explain others."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """
    The first failure that a node saw.

    Args:
        error: One of the contract's `ERROR_*`.
        origin: One of `ORIGINS`.
        summary: One sentence for people, with the rank, the node and its address where they matter.
        node: Name of the node.
        at: Epoch seconds, by the node's clock.
        rank: The rank that failed. Default: none, the node itself failed.
        details: A traceback or a rank's last lines. Default: none.
        stacks: The stack of every rank of the node, for a stall. Default: none.
    """

    error: str
    origin: Origin
    summary: str
    node: str
    at: float
    rank: int | None = None
    details: str = ""
    stacks: tuple[RankStack, ...] = ()

    def to_json(self) -> str:
        """Return the failure as JSON, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Failure:
        """Read a failure from the ledger's JSON."""
        fields = json.loads(text)
        stacks = tuple(RankStack(**stack) for stack in fields.pop("stacks"))
        return cls(**fields, stacks=stacks)


def root_cause(failures: Iterable[Failure]) -> Failure:
    """
    Choose the failure that explains the others: by origin, then the earliest, then the lowest rank.

    Clocks of EC2 instances agree within milliseconds (Amazon Time Sync), and a ring falls apart over a tenth of a
    second or more.

    Args:
        failures: At least one.
    """
    return min(
        failures,
        key=lambda failure: (
            ORIGINS.index(failure.origin),
            failure.at,
            -1 if failure.rank is None else failure.rank,
            failure.node,
        ),
    )


def run_error(failures: Sequence[Failure]) -> RunError:
    """Return the run's error, from the failures that its nodes recorded."""
    reason = root_cause(failures)
    if reason.origin == "stall":
        stalls = [failure for failure in failures if failure.origin == "stall"]
        return RunError(reason.error, describe_stall([stack for stall in stalls for stack in stall.stacks]))
    return RunError(reason.error, f"{reason.summary}\n\n{reason.details}" if reason.details else reason.summary)


class NodeFailedError(RunError):
    """
    This node saw the run fail.

    Args:
        failure: The failure that it saw.
    """

    def __init__(self, failure: Failure) -> None:
        error = run_error([failure])
        super().__init__(error.error, error.message)
        self.failure = failure


def as_run_error(error: Exception) -> RunError:
    """Convert an exception that reached the agent's boundary into the run's error."""
    if isinstance(error, RunError):
        return error
    if isinstance(error, LedgerUnreachableError):
        return RunError(contract.ERROR_NODE_FAILED, f"A node could not reach the ledger: {error}.")
    _log.error("the agent failed", exc_info=error)
    if isinstance(error, OSError) and is_disk_full(error):
        return disk_full("A node's disk is full" + (f" at {error.filename}" if error.filename else ""), error)
    return RunError(contract.ERROR_NODE_FAILED, f"The node agent failed: {type(error).__name__}: {error}")


def is_disk_full(error: OSError) -> bool:
    """Whether the file system is full, or a quota is exceeded."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(what: str, error: OSError) -> RunError:
    """Return the error for a full disk; *what* begins its sentence. A restart would fail in the same way."""
    return RunError(
        contract.ERROR_DISK_FULL,
        f"{what}: {error.strerror}. Use instance types with more local storage, or give the fleet a larger volume.",
    )


def as_failure(error: RunError, *, node: str, address: str) -> Failure:
    """Return *error* as a failure of *node*, to be recorded for the leader."""
    if isinstance(error, NodeFailedError):
        return error.failure
    return Failure(
        error=error.error,
        origin="node",
        summary=f"{error.message} (seen by node {node}, {address})",
        node=node,
        at=time.time(),
    )


def cause_text(message: str, *, limit: int = contract.CAUSE_LIMIT) -> str:
    """Shorten *message* to *limit*, Step Functions' by default, in the middle: a traceback's ends say the most."""
    if len(message) <= limit:
        return message
    cut = "\n[…]\n"
    half = (limit - len(cut)) // 2
    return message[:half] + cut + message[-half:]
