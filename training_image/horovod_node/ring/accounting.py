"""What a run has trained and lost, over all its attempts: told to people while it trains, and in its receipt."""

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
"""Between two writes of how far the training is: as often as people look."""


class RunAccounting:
    """
    Counts a run's steps and GPU time, from where the leader of the attempt before stopped.

    Args:
        work: What the node works on.
        restored: The checkpoint that this attempt begins with; `None` when it begins at the beginning.
    """

    def __init__(self, work: NodeAttempt, restored: Restored | None) -> None:
        self._work = work
        self._ledger = work.ledger.with_patience(0)
        self._restored = restored
        self._tell = Interval(TELL_SECONDS)
        self._progress: Progress | None = None
        before = work.ledger.progress(work.lease)
        reached = int(before.get("step", 0))
        # A checkpoint of a step that nobody knew may be the newest one.
        begun_at = 0 if restored is None else restored.step
        lost = 0 if begun_at is None else max(0, reached - begun_at)
        self._repeated = RepeatedSteps(int(before.get("repeated_steps", 0)) + lost, restored=restored is not None)
        self._trained = TrainedTime(float(before.get(contract.TRAINED_GPU_SECONDS, 0.0)))

    def see(self, progress: Progress | None, *, ranks: int, resets: int) -> None:
        """
        Take note of how far the training is, and tell people; to be called often.

        Args:
            progress: Rank 0's; `None` while it has told nothing.
            ranks: Of the whole ring.
            resets: How often it was formed anew.
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
        Give the answer to the question for the training.

        Args:
            ranks: Of the last ring.
            steps: All that were taken.
            ring: What the leader knows of the ring's life.
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
    Counts the steps that were lost, by rings that broke and by attempts that ended.

    Steps lost in a ring reset are known only if the script uses `training.fit`; the leader itself counts those that
    were lost with an attempt.

    Args:
        before: Steps that earlier attempts lost, those after the restored checkpoint among them. Default: 0.
        restored: Whether the script begins with a checkpoint, which holds the script's own count until then.
    """

    def __init__(self, before: int = 0, *, restored: bool = False) -> None:
        self._before = before
        self._told_at_first = None if restored else 0
        self._told = 0
        self.known = before > 0
        """Whether anybody could tell."""

    @property
    def count(self) -> int:
        """Steps lost so far."""
        return self._before + self._told

    def see(self, progress: Progress) -> None:
        """Take note of how far rank 0 is."""
        if progress.committed_step is None:
            return
        self.known = True
        if self._told_at_first is None:
            self._told_at_first = progress.repeated_steps
        # A rank whose process is a new one knows nothing until the others tell it.
        self._told = max(self._told, progress.repeated_steps - self._told_at_first)


class TrainedTime:
    """
    Adds up ranks times the seconds in which steps were taken.

    The time between two steps of one ring counts, whatever the script does in it: computing, averaging, validating.
    What comes before a ring's first step and after its last one does not: forming it, importing, compiling, waiting
    for lost ranks.

    Args:
        gpu_seconds: What the run's earlier attempts have trained. Default: 0.
    """

    def __init__(self, gpu_seconds: float = 0.0) -> None:
        self.gpu_seconds = gpu_seconds
        """The sum so far."""
        self._ring: int | None = None
        self._advances = 0
        self._at: float | None = None

    def see(self, *, ring: int, ranks: int, advances: int, now: float) -> None:
        """
        Take note of how far the training is; to be called often.

        Args:
            ring: Counts the rings that were formed.
            ranks: Of this ring.
            advances: Steps that one of its ranks was seen to take; begins anew with that rank's process.
            now: Seconds of a clock that nobody sets.
        """
        if ring != self._ring or advances < self._advances:
            # Not a step yet: what was seen last may be the ring's before.
            self._ring, self._advances, self._at = ring, advances, None
        elif advances > self._advances:
            if self._at is not None:
                self.gpu_seconds += ranks * (now - self._at)
            self._advances, self._at = advances, now
