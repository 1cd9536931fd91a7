"""Steps and GPU time that a run has trained and lost over all its attempts, for its progress and its receipt."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored
from horovod_node.node.errors import LedgerUnreachableError
from horovod_node.node.waiting import Interval
from horovod_node.rank_process.progress import Progress

TELL_SECONDS = 2.0
"""Time between two writes of the progress; a live view is not refreshed more often."""


class RunAccounting:
    """
    Counts a run's steps and GPU time, continuing the counts of the previous attempt's leader.

    Args:
        work: The node's part in the attempt.
        restored: The checkpoint that this attempt resumes from; `None` if it starts from scratch.
    """

    def __init__(self, work: NodeAttempt, restored: Restored | None) -> None:
        self._work = work
        self._ledger = work.ledger.with_patience(0)
        self._restored = restored
        self._tell = Interval(TELL_SECONDS)
        self._progress: Progress | None = None
        before = work.ledger.progress(work.lease)
        reached = int(before.get("step", 0))
        # The step of a restored checkpoint may be unknown; then no loss is counted.
        begun_at = 0 if restored is None else restored.step
        lost = 0 if begun_at is None else max(0, reached - begun_at)
        self._repeated = RepeatedSteps(int(before.get("repeated_steps", 0)) + lost, restored=restored is not None)
        self._trained = TrainedTime(float(before.get(contract.TRAINED_GPU_SECONDS, 0.0)))

    def see(self, progress: Progress | None, *, ranks: int, resets: int) -> None:
        """
        Count the training's progress, and publish it when due. To be called often.

        Args:
            progress: Progress of rank 0; `None` while it has reported none.
            ranks: Size of the ring.
            resets: How often the ring was reset.
        """
        self._progress = progress or self._progress
        if self._progress is None:
            return
        self._repeated.see(self._progress)
        self._trained.see(ring=resets, ranks=ranks, advances=self._progress.advances, now=time.monotonic())
        if self._tell.elapsed():
            facts = {
                **self._progress.for_people(),
                "repeated_steps": self._repeated.count,
                "ranks": ranks,
                "resets": resets,
                contract.TRAINED_GPU_SECONDS: round(self._trained.gpu_seconds, 1),
                "at": round(time.time(), 1),
            }
            with suppress(LedgerUnreachableError):
                self._ledger.put_progress(self._work.lease, json.dumps(facts), remove_at=self._work.run.remove_at)

    def answer(self, *, ranks: int, steps: int, ring: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return the answer to the train task.

        Args:
            ranks: Size of the last ring.
            steps: Number of training steps.
            ring: The leader's facts about the ring, for the receipt.
        """
        life = dict(ring)
        if self._restored is not None:
            life["resumed"] = {"run": contract.name_of(self._restored.name.run_id), "step": self._restored.step}
        if self._repeated.known:
            life["repeated_steps"] = self._repeated.count
        return {
            contract.RANKS: ranks,
            contract.STEPS: steps,
            contract.TRAINED_GPU_SECONDS: round(self._trained.gpu_seconds, 1),
            contract.RING: life,
        }


class RepeatedSteps:
    """
    Counts the steps that were lost in ring resets and in failed attempts.

    Steps lost in a ring reset are known only if the script uses `training.fit`; the leader itself counts those that
    were lost with an attempt.

    Args:
        before: Steps that earlier attempts lost, including those after the restored checkpoint. Default: 0.
        restored: Whether the script resumes from a checkpoint, which contains its own count so far.
    """

    def __init__(self, before: int = 0, *, restored: bool = False) -> None:
        self._before = before
        self._told_at_first = None if restored else 0
        self._told = 0
        self.known = before > 0
        """Whether the count is known."""

    @property
    def count(self) -> int:
        """Steps lost so far."""
        return self._before + self._told

    def see(self, progress: Progress) -> None:
        """Update the count from rank 0's progress."""
        if progress.committed_step is None:
            return
        self.known = True
        if self._told_at_first is None:
            self._told_at_first = progress.repeated_steps
        # A new process of rank 0 reports no lost steps until it has the state of the others.
        self._told = max(self._told, progress.repeated_steps - self._told_at_first)


class TrainedTime:
    """
    Adds up GPU seconds: ranks times the seconds in which they took steps.

    The time between two steps of one ring counts, whatever the script does in it: computing, averaging, validating.
    The time before a ring's first step and after its last one does not: forming the ring, importing, compiling, waiting
    for lost ranks.

    Args:
        gpu_seconds: GPU seconds of the run's earlier attempts. Default: 0.
    """

    def __init__(self, gpu_seconds: float = 0.0) -> None:
        self.gpu_seconds = gpu_seconds
        """The sum so far."""
        self._ring: int | None = None
        self._advances = 0
        self._at: float | None = None

    def see(self, *, ring: int, ranks: int, advances: int, now: float) -> None:
        """
        Update the sum. To be called often.

        Args:
            ring: Number of the ring.
            ranks: Size of this ring.
            advances: Steps that the process of one of its ranks has taken; a new process starts from 0.
            now: Seconds of a monotonic clock.
        """
        if ring != self._ring or advances < self._advances:
            # No interval starts here: the last step seen may be the previous ring's.
            self._ring, self._advances, self._at = ring, advances, None
        elif advances > self._advances:
            if self._at is not None:
                self.gpu_seconds += ranks * (now - self._at)
            self._advances, self._at = advances, now
