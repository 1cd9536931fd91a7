"""
What a node does between two attempts and after its last one, and when it is told to stop: each engine has its rules.

On EC2 the agent ends with its part of the run, and its exit code tells the instance whether to terminate itself. The
local engine is the same. ECS starts a daemon's task again as soon as it ends, so there an agent ends only for a run
that another process must begin. On SageMaker the exit codes of a job's containers decide whether the job completed or
failed. Whether the first one ends the whole job is not documented, so there an agent stays until the run has moved on.
"""

from __future__ import annotations

import json
import logging
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from horovod_node import contract
from horovod_node.node.errors import UsageError
from horovod_node.node.failure import Failure, cause_text, run_error

if TYPE_CHECKING:
    from horovod_node.ledger.ledger import Lease, Ledger
    from horovod_node.node.identity import Node

_log = logging.getLogger(__name__)

OPT_ML: Final = Path(contract.DEFAULT_ML_ROOT)
FAILURE_LIMIT: Final = 1024
"""
Characters of the failure file that SageMaker returns (its developer guide, "How Amazon SageMaker Processes Training
Output").
"""
STOP_SECONDS: Final = 100
"""
Time for a last checkpoint on SageMaker, which kills a container 120 seconds after SIGTERM (API reference,
`StoppingCondition`). The rest is for the agent's own end.
"""
_SCRIPTS_PATHS: Final = ("checkpoints", "model", "input/data", "output/data", "output/tensorboard", "output/failure")
"""Paths below `/opt/ml` that scripts may know by heart."""


class Turn(Enum):
    """What a node does next."""

    JOIN = "join"
    """Take part in the attempt that the lease names."""
    WAIT = "wait"
    LEAVE = "leave"


@dataclass(frozen=True, kw_only=True)
class Part:
    """
    A node's part in an attempt, after its end.

    Args:
        lease: The lease that named the attempt; `None` if none could be read.
        code: The agent's exit code on EC2, one of the contract's `EXIT_*`.
        reason: Why it ended, in a sentence or more for people.
        is_last: Whether the node must take part in no other attempt of the run. Default: it may.
        succeeded: Whether the node has done all that the run needs of it. Default: it has not.
    """

    lease: Lease | None
    code: int
    reason: str
    is_last: bool = False
    succeeded: bool = False


class Conduct(ABC):
    """One engine's rules for its nodes."""

    has_instance: bool = True
    """
    Whether the node is an instance of ours, which terminates itself when the run continues without it, or when its
    dead-man's switch has seen no valid lease for too long.
    """

    def __init__(self) -> None:
        self.stops_at: float | None = None
        """When the agent ends at the latest, by the monotonic clock, after it was told to stop; `None` until then."""

    def stop(self) -> None:
        """End the agent, or have it end in order. The handler of SIGTERM calls this in the main thread."""
        # Wherever the main thread is, every `with` on the way out stops what it started.
        raise SystemExit(contract.EXIT_OK)

    def begin(self, lease: Lease) -> None:  # noqa: B027 - most engines have nothing to do here
        """Prepare for an attempt, before the node writes anything to the ledger."""

    @abstractmethod
    def turn(self, lease: Lease | None, *, last: Part | None, is_going: bool) -> Turn:
        """
        Decide what the node does next.

        Args:
            lease: The fleet's lease as it is now; `None` if there is none.
            last: The part that this process took last; `None` for none.
            is_going: Whether EC2 has announced the end of the node's instance.
        """

    def end(self, part: Part) -> None:  # noqa: B027 - most engines have nothing to do here
        """Tell the instance what it must know after *part*."""

    def leave(self, last: Part | None, *, ledger: Ledger) -> int:  # noqa: ARG002 - for engines that read the others' failures
        """Leave, and return the agent's exit code."""
        return contract.EXIT_RELEASED if last is None else last.code


class EndsWithItsPart(Conduct):
    """The rules of EC2 and the local engine: waits only for a run that may restart."""

    def turn(self, lease: Lease | None, *, last: Part | None, is_going: bool) -> Turn:
        """Join the run that holds the fleet, and its later attempts; leave with the run."""
        if lease is None:
            return Turn.LEAVE
        if last is None or last.lease is None:
            return Turn.JOIN
        # The script and the data on this node belong to its run.
        if last.is_last or is_going or lease.run_id != last.lease.run_id or _has_expired(lease):
            return Turn.LEAVE
        return Turn.JOIN if lease.attempt > last.lease.attempt else Turn.WAIT


class WaitsForAnother(Conduct):
    """
    The rules of ECS: waits for a later attempt, or another run, whatever happened.

    A file in the ML root, a folder of the instance, names the attempt that was begun last. An agent that ECS has
    started again reads it, and waits as its predecessor would have: if it joined the same attempt again, it would hide
    its predecessor's failure, or lead with task tokens that are spent. So an agent that was killed, for lack of memory
    for example, takes part in the next attempt.

    Args:
        ml_root: The node's ML root.
    """

    def __init__(self, ml_root: Path) -> None:
        super().__init__()
        self._begun = ml_root / ".begun"
        self._part_over = ml_root / contract.PART_OVER_FILE

    def begin(self, lease: Lease) -> None:
        """Record the attempt."""
        self._begun.parent.mkdir(parents=True, exist_ok=True)
        self._part_over.unlink(missing_ok=True)
        new = self._begun.with_suffix(".new")
        new.write_text(json.dumps([lease.run_id, lease.attempt]))
        new.replace(self._begun)

    def turn(self, lease: Lease | None, *, last: Part | None, is_going: bool) -> Turn:
        """Join whatever this instance has not begun; never leave, except for another run."""
        if lease is None or not lease.run_id or is_going:
            return Turn.WAIT
        run_id, attempt = self._last_begun() if last is None or last.lease is None else _attempt_of(last.lease)
        if lease.run_id != run_id:
            # The script and the data in this process belong to its run; ECS starts another one.
            return Turn.JOIN if last is None else Turn.LEAVE
        return Turn.JOIN if lease.attempt > attempt else Turn.WAIT

    def end(self, part: Part) -> None:
        """Ask the instance to terminate itself if the run continues without it."""
        if part.code == contract.EXIT_PART_OVER:
            self._part_over.touch()

    def _last_begun(self) -> tuple[str, int]:
        try:
            run_id, attempt = json.loads(self._begun.read_text())
            return str(run_id), int(attempt)
        except (FileNotFoundError, ValueError, TypeError):  # nothing was begun, or the script has overwritten the file
            return "", 0


class StaysWithItsJob(Conduct):
    """
    The rules of SageMaker: stays while the lease names the attempt for which the job was created, and then ends the job
    truly: with exit code 0 after a success, otherwise with another one and the reason in `/opt/ml/output/failure`.

    Source: Amazon SageMaker developer guide, "How Amazon SageMaker Signals Algorithm Success and Failure".

    Args:
        run_id: Id of the run for which the job was created.
        attempt: Number of the attempt for which it was created; the next attempt has a job of its own.
        ml_root: The node's ML root.
        opt_ml: The platform's folder. Default: `/opt/ml`.
    """

    has_instance = False

    def __init__(self, *, run_id: str, attempt: int, ml_root: Path, opt_ml: Path = OPT_ML) -> None:
        super().__init__()
        self._attempt = run_id, attempt
        self._ml_root = ml_root
        self._opt_ml = opt_ml
        self._links: dict[Path, bool] = {}

    def stop(self) -> None:
        """Have the agent end within `STOP_SECONDS`."""
        if self.stops_at is None:
            self.stops_at = time.monotonic() + STOP_SECONDS
            signal.signal(signal.SIGALRM, _end)
            signal.alarm(STOP_SECONDS)

    def begin(self, lease: Lease) -> None:  # noqa: ARG002 - there is only one
        """Lead the paths that scripts know by heart to the ML root, where the platform has put nothing."""
        for name in _SCRIPTS_PATHS:
            path = self._opt_ml / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                was_there = path.exists()
                if was_there:
                    path.rmdir()
                path.symlink_to(self._ml_root / name)
            except OSError as error:  # it is a mount, is not empty, or belongs to another user
                _log.warning("scripts find %s by its variable only: %s", path, error)
            else:
                self._links[path] = was_there

    def turn(self, lease: Lease | None, *, last: Part | None, is_going: bool) -> Turn:  # noqa: ARG002 - SIGTERM tells it
        """Join the job's attempt once; leave when it is over."""
        is_over = lease is None or _attempt_of(lease) != self._attempt or _has_expired(lease)
        if is_over or self.stops_at is not None:
            return Turn.LEAVE
        return Turn.JOIN if last is None else Turn.WAIT

    def leave(self, last: Part | None, *, ledger: Ledger) -> int:
        """Take the links back, which may lead nowhere for who uploads the folders, and tell SageMaker how it went."""
        for link, was_there in self._links.items():
            if link.is_symlink():
                link.unlink()
                if was_there:
                    link.mkdir()
        if last is not None and last.succeeded:
            return contract.EXIT_OK
        # In a job that is stopped, ranks that lost the leader's fail as well, and the leader knows why.
        stopped = last is not None and self.stops_at is not None
        _leave_reason(last.reason if last and stopped else _root_cause(last, ledger), opt_ml=self._opt_ml)
        return super().leave(last, ledger=ledger)


def conduct_of(node: Node, environment: Mapping[str, str]) -> Conduct:
    """
    Return the rules of the node's engine.

    Args:
        node: This node.
        environment: The process's environment variables.

    Raises:
        UsageError: If a variable of a SageMaker job is missing or makes no sense.
    """
    match node.engine:
        case contract.ENGINE_ECS:
            return WaitsForAnother(node.ml_root)
        case contract.ENGINE_SAGEMAKER:
            run_id, attempt = (environment.get(name, "") for name in (contract.ENV_RUN_ID, contract.ENV_ATTEMPT))
            if not run_id or not attempt.isdecimal():
                raise UsageError(
                    f"'{contract.ENV_RUN_ID}' and '{contract.ENV_ATTEMPT}' must name a run's id and the number of an "
                    f"attempt, got '{run_id}' and '{attempt}'; the job's Environment sets them"
                )
            return StaysWithItsJob(run_id=run_id, attempt=int(attempt), ml_root=node.ml_root)
        case _:
            return EndsWithItsPart()


def tell_platform(reason: str, environment: Mapping[str, str]) -> None:
    """Tell the platform why this node could not begin, if there is a platform that asks."""
    if environment.get(contract.ENV_ENGINE) == contract.ENGINE_SAGEMAKER:
        _leave_reason(reason, opt_ml=OPT_ML)


def _leave_reason(reason: str, *, opt_ml: Path) -> None:
    """Write SageMaker's failure file, unless the script has written it."""
    try:
        with (opt_ml / "output" / "failure").open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(cause_text(reason, limit=FAILURE_LIMIT))
    except OSError as error:
        _log.error("the reason could not be left for SageMaker: %s", error)


def _root_cause(last: Part | None, ledger: Ledger) -> str:
    """Return the reason that every node of the attempt gives: which host's file SageMaker reads is not documented."""
    if last is None:
        return "No attempt needs this job any more."
    if last.lease is None:
        return last.reason
    try:
        recorded = ledger.with_patience(0).failures(last.lease)
    except Exception as error:
        _log.warning("could not read the other nodes' failures: %s", error)
        recorded = []
    if not recorded:
        return last.reason
    cause = run_error([Failure.from_json(text) for text in recorded])
    return f"{cause.error}: {cause.message}"


def _attempt_of(lease: Lease) -> tuple[str, int]:
    return lease.run_id, lease.attempt


def _has_expired(lease: Lease) -> bool:
    return lease.expires_at < time.time()


def _end(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise SystemExit(contract.EXIT_RELEASED)
