"""This node's part of the training: its ranks, their steps, and their first failure."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from types import TracebackType

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Pace
from horovod_node.local_ranks.metrics import TrainingMetrics
from horovod_node.local_ranks.processes import RankEnd, Ranks
from horovod_node.local_ranks.rank_assignment import RankAssignment
from horovod_node.node.failure import Failure, Origin, cause_text
from horovod_node.node.stall import RankStack, StepWatch, find_place
from horovod_node.rank_process.control import IN_RING, RankConnection
from horovod_node.rank_process.progress import Progress
from horovod_node.rank_process.script_failure import ORIGIN_PREFLIGHT, ORIGIN_RING, lost_the_ring

_log = logging.getLogger(__name__)

_FAILURE_FILE_LIMIT = 1024
"""Characters (Amazon SageMaker API Reference, `FailureReason` of `DescribeTrainingJob`)."""
RING_LOSS_SECONDS = 2.0
"""Seconds to wait, after a rank reported a lost ring, for another rank of this node to report the actual failure."""


class LocalTraining:
    """
    Starts this node's ranks, and stops them when the context exits.

    Args:
        work: The node's part in the attempt.
        assignment: The node's ranks, from `ranks_of_plan` or `ranks_in_standby`.
    """

    def __init__(self, work: NodeAttempt, assignment: RankAssignment) -> None:
        self._work = work
        settings = work.run.settings
        self._started = time.monotonic()
        self._ranks = Ranks(
            assignment.jobs,
            assignment.environments,
            output=work.output,
            python=assignment.python,
            elastic=assignment.elastic,
        )
        self._watch = StepWatch(
            first_step_seconds=settings.first_step_seconds, stall_seconds=settings.stall_seconds, now=self._started
        )
        self._first_step_logged = False
        self._formed: dict[int, int] = {}
        self.metrics = TrainingMetrics(work)
        """Publishes the metrics of this node's ranks to CloudWatch."""
        self.step = 0
        """Training step of this node's slowest rank."""
        _log.info("started %s", assignment)

    def __enter__(self) -> LocalTraining:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end_metrics()
        self._ranks.stop()

    @property
    def lines(self) -> dict[int, RankConnection]:
        """Connections to the ranks of an elastic ring, by local rank."""
        return self._ranks.lines

    @property
    def seconds(self) -> float:
        """Seconds since the ranks were started."""
        return time.monotonic() - self._started

    def exit_codes(self) -> dict[int, int]:
        """Return the exit code of each rank that has ended, by its number, or local rank in an elastic ring."""
        return self._ranks.exit_codes()

    def progress(self) -> dict[int, Progress]:
        """Return the progress of each rank, by its number, or local rank in an elastic ring."""
        return self._ranks.progress()

    def pace(self) -> tuple[Pace, ...]:
        """Return the number, compute seconds and wait seconds per step of each rank whose steps were measured."""
        return tuple(
            (self._ranks.number(rank), progress.compute_seconds_per_step, progress.wait_seconds_per_step)
            for rank, progress in self._ranks.progress().items()
            if progress.compute_seconds_per_step is not None and progress.wait_seconds_per_step is not None
        )

    @property
    def done(self) -> bool:
        """Whether every rank of this node ended with exit code 0."""
        return self._ranks.done

    @property
    def running(self) -> bool:
        """Whether a rank of this node has not ended."""
        return bool(self._ranks.running)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to this node's ranks; a script may use it to write a checkpoint."""
        self._ranks.ask_to_stop()

    def kill(self) -> None:
        """End this node's ranks at once."""
        self._end_metrics()
        self._ranks.kill()

    def _end_metrics(self) -> None:
        self.metrics.end(self._ranks.progress(), self._ranks.process_ids)

    def failure(self) -> Failure | None:
        """
        Poll the ranks. The agent's loop calls this in every turn.

        Returns:
            The failure, if there is one: a rank that failed, or ranks that have stalled. `None` otherwise.
        """
        progress = self._ranks.progress()
        running = self._ranks.running
        now = time.monotonic()
        self.step = min((progress[rank].step for rank in running or progress), default=0)
        for rank, line in self._ranks.lines.items():
            if line.formed != self._formed.get(rank, 0):
                self._formed[rank] = line.formed
                self._watch.begin(rank, advances=progress[rank].advances, now=now)
        self._watch.see({rank: progress[rank].advances for rank in self._judged(running)}, now=now)
        self.metrics.turn(progress, self._ranks.process_ids)
        if self.step and not self._first_step_logged:
            self._first_step_logged = True
            _log.info("first training step %.2f s after the ranks started", now - self._started)
        ends = self._ranks.failed()
        if ends:
            return self._end_failure(ends)
        stalled = self._watch.stalled(now=now)
        return self._stall_failure(stalled) if stalled else None

    def stands_still_too(self) -> Failure | None:
        """
        Return the failure of stalled ranks of this node, after another node has reported a stall; `None` if they step.

        Nodes see the ring's last step at different times, some seconds apart if they are busy. So half of the time
        limit applies here, which still distinguishes ranks that wait for the ring from ranks that step.
        """
        stalled = self._watch.stalled(now=time.monotonic(), part=0.5)
        return self._stall_failure(stalled) if stalled else None

    def _judged(self, running: Sequence[int]) -> list[int]:
        """Return the ranks whose steps are watched. The forming of a ring has its own time limits."""
        lines = self._ranks.lines
        return [rank for rank in running if rank not in lines or lines[rank].state == IN_RING]

    def _end_failure(self, ends: list[RankEnd]) -> Failure:
        failures = [self._describe(end) for end in ends]
        give_up_at = time.monotonic() + RING_LOSS_SECONDS
        while all(failure.origin == "ring" for failure in failures) and time.monotonic() < give_up_at:
            if not self._ranks.running:
                break
            time.sleep(0.1)
            failures = [self._describe(end) for end in self._ranks.failed()]
        return next((failure for failure in failures if failure.origin != "ring"), failures[0])

    def _describe(self, end: RankEnd) -> Failure:
        who = f"Rank {end.rank} on {self._work.node.id} ({self._work.node.address})"
        origin: Origin = "script"
        error = contract.ERROR_TRAINING_FAILED
        if end.report is not None:
            summary = f"{who} ended with exit code {end.exit_code}: {end.report.summary}"
            details = end.report.traceback
            if end.report.silent:
                details = f"{self._left_words()}{_last_lines(end.tail)}\n\n{details}"
            if end.report.origin == ORIGIN_RING:
                origin = "ring"
                summary = f"{who} lost the other ranks: {end.report.summary}"
            elif end.report.origin == ORIGIN_PREFLIGHT:
                error = contract.ERROR_PREFLIGHT
                summary = f"{who} was not allowed to train: {end.report.summary}"
        else:
            summary = f"{who} {_how(end.exit_code)}."
            details = _last_lines(end.tail)
            if lost_the_ring(end.tail):
                origin = "ring"
            elif end.exit_code < 0:
                origin = "killed"
        return Failure(
            error=error,
            origin=origin,
            # DynamoDB's items have at most 400 KB, and an exception's message may contain a whole batch.
            summary=cause_text(summary),
            details=cause_text(details.strip()),
            node=self._work.node.id,
            rank=end.rank,
            at=end.at,
        )

    def _left_words(self) -> str:
        """Read SageMaker's failure file, to which the script may write up to 1,024 characters as the reason."""
        try:
            with self._work.layout.failure.open(errors="backslashreplace") as file:
                words = file.read(_FAILURE_FILE_LIMIT).strip()
        except OSError:
            return ""
        return f"It left in {self._work.layout.failure}:\n{words}\n\n" if words else ""

    def _stall_failure(self, stalled: list[int]) -> Failure:
        now, first = time.monotonic(), self._ranks.number(stalled[0])
        progress = self._ranks.progress()
        stacks = []
        for rank, text in self._ranks.stacks().items():
            place, in_script = find_place(text, code=self._work.layout.code)
            stacks.append(
                RankStack(
                    rank=self._ranks.number(rank),
                    node=self._work.node.id,
                    address=self._work.node.address,
                    step=progress[rank].step,
                    silent_seconds=int(self._watch.silent_seconds(rank, now=now)),
                    answered=bool(text),
                    place=place,
                    in_script=in_script,
                )
            )
        return Failure(
            error=contract.ERROR_TRAINING_STALLED,
            origin="stall",
            summary=f"Rank {first} on {self._work.node.id} ({self._work.node.address}) stands still.",
            node=self._work.node.id,
            rank=first,
            stacks=tuple(stacks),
            at=time.time(),
        )


def _last_lines(tail: str) -> str:
    return f"Its last lines:\n{tail.rstrip()}" if tail.strip() else ""


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}" + (", as Linux does when memory runs out" if name == "SIGKILL" else "")
