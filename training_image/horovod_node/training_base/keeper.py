"""Keeps the work of a call of `fit`: commits, checkpoints, and recovery when the ring breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from horovod_node.rank_process import step_times
from horovod_node.training_base import elastic
from horovod_node.training_base.checkpoints import CHECKPOINT_SECONDS, Checkpoints
from horovod_node.training_base.commits import Commit, CommitSchedule
from horovod_node.training_base.elastic import FitOverError, HostUpdates, RingChanged
from horovod_node.training_base.position import Position
from horovod_node.training_base.report import Report
from horovod_node.training_base.stop import StopRequest


class State(Protocol):
    """The state of a training."""

    position: Position
    committed: Commit | None
    commit_seconds: float

    def commit(self) -> Commit:
        """Keep a copy of the state in host memory."""

    def restore(self) -> None:
        """Return to the last commit, and count the lost steps."""

    def load(self, values: Any, position: Position) -> None:
        """Replace the state."""

    def sync(self) -> None:
        """Adopt the state of the rank with the most steps, and commit it."""


class Ring(elastic.Ring, Protocol):
    """A framework's ring."""

    def rank(self) -> int:
        """Return this process's number."""

    def gather(self, row: Sequence[float], *, name: str) -> Any:
        """Return the rows of all ranks, a NumPy array in the order of ranks."""


class Keeper:
    """
    Keeps the work of one call of `fit`, on one rank.

    Args:
        state: State of the training.
        ring: The framework's ring.
        is_lost_ring: Whether an error means that ranks were lost.
        schedule: Schedule of the commits.
        checkpoints: The checkpoints; `None` on ranks that write none.
        checkpoint_every: Steps between two checkpoints. Default: as many as take `CHECKPOINT_SECONDS`.
        epochs: Total number of epochs.
    """

    def __init__(
        self,
        state: State,
        *,
        ring: Ring,
        is_lost_ring: Callable[[BaseException], bool],
        schedule: CommitSchedule,
        checkpoints: Checkpoints | None,
        checkpoint_every: int | None,
        epochs: int,
    ) -> None:
        self.report: Final = Report(epochs=epochs)
        self._state, self._ring, self._is_lost_ring = state, ring, is_lost_ring
        self._schedule, self._checkpoints, self._checkpoint_every = schedule, checkpoints, checkpoint_every
        self._epochs = epochs
        self._updates, self._stop = HostUpdates(), StopRequest()
        self._agreed_at, self._agreed_step = time.monotonic(), 0
        self._saved_at, self._saved_step = time.monotonic(), state.position.step

    def run(self, train: Callable[[], None], *, finish: Callable[[], None]) -> None:
        """
        Train to the end, from the newest checkpoint if there is one.

        Args:
            train: Trains from the present state on.
            finish: Called after the training, before the last checkpoint.
        """
        self._load_checkpoint()
        with self._stop:
            try:
                elastic.keep_training(
                    train,
                    sync=self._sync,
                    restore=self._restore,
                    updates=self._updates,
                    ring=self._ring,
                    is_lost_ring=self._is_lost_ring,
                )
            except FitOverError:
                return
            except Exception as error:
                if self._stop.came and self._is_lost_ring(error):
                    self._leave()
                raise
            finish()
            self._write_last()

    def begin_measuring(self) -> None:
        """Start to measure step times here; the time since the last step is not counted."""
        self._agreed_at = time.monotonic()
        self.report.begin(self._state.position.step)

    def obey_stop(self) -> None:
        """After SIGTERM, on rank 0, write a checkpoint of the step that was just taken, and exit."""
        if self._stop.came and self._ring.rank() == 0:
            self._state.commit()
            self._leave()

    def keep(self, *, wants_stop: bool, agree_to_stop: Callable[[bool], None]) -> None:
        """
        Commit, and write a checkpoint, if they are due.

        Args:
            wants_stop: Whether this rank wants the training to end.
            agree_to_stop: At a commit, called with whether any rank wants the training to end.

        Raises:
            RingChanged: If the ring is about to change.
        """
        if self._checkpoint_every and self._checkpoints is not None:
            every = self._checkpoint_every
            if self._state.position.step // every > self._saved_step // every:
                self._state.commit()
                self._write()
        if self._state.position.step - self._agreed_step >= self._schedule.steps:
            self._agree(wants_stop=wants_stop, agree_to_stop=agree_to_stop)

    def _agree(self, *, wants_stop: bool, agree_to_stop: Callable[[bool], None]) -> None:
        """Commit on all ranks, and exchange their proposals, wishes to stop and announcements."""
        state = self._state
        proposal = self._schedule.propose(
            seconds=time.monotonic() - self._agreed_at, commit_seconds=state.commit_seconds
        )
        if self._ring.is_elastic():
            state.commit()
        rows = self._ring.gather([proposal, wants_stop, self._updates.pending], name="commit")
        self._schedule.steps = int(rows[0, 0])
        self._agreed_step = state.position.step
        agree_to_stop(bool(rows[:, 1].any()))
        if self._ring.is_elastic():
            self.report.note(committed_step=state.position.step)
        if (
            self._checkpoints is not None
            and self._checkpoint_every is None
            and time.monotonic() - self._saved_at >= CHECKPOINT_SECONDS
            and not self._checkpoints.busy
        ):
            if not self._ring.is_elastic():
                state.commit()
            self._write()
        if rows[:, 2].any():
            raise RingChanged
        self._agreed_at = time.monotonic()
        step_times.OF_THIS_PROCESS.pause()

    def _sync(self) -> None:
        self._state.sync()
        # A rank that joined proposes the shortest interval, because the time of a step changes with the ring's size.
        self._schedule.steps = int(self._ring.gather([self._schedule.steps], name="schedule").min())
        self._agreed_step = self._state.position.step
        position = self._state.position
        self.report.note(committed_step=position.step, repeated_steps=position.repeated_steps)
        self.begin_measuring()

    def _restore(self) -> None:
        if self._stop.came:
            self._leave()
        self._state.restore()

    def _load_checkpoint(self) -> None:
        if self._checkpoints is None:
            return
        found = self._checkpoints.newest(fit=self._state.position.fit)
        if found is None:
            return
        if found.position.fit > self._state.position.fit:
            # The later call continues from this call's result, or this call's model was trained to its end.
            over = replace(self._state.position, epoch=self._epochs)
            if found.values is None:
                self._state.position = over
            else:
                self._state.load(found.values, over)
            return
        self._state.load(found.values, found.position)
        self._saved_step = found.position.step
        print(f"going on from checkpoint of step {found.position.step}, epoch {found.position.epoch + 1}", flush=True)

    def _write(self) -> None:
        assert self._checkpoints is not None
        assert self._state.committed is not None
        self._checkpoints.write(self._state.committed)
        self._saved_at, self._saved_step = time.monotonic(), self._state.position.step
        self.report.note(committed_step=self._state.position.step)

    def _write_last(self) -> None:
        """Write the last state, so that no step is repeated if the leader is lost while it saves the model."""
        if self._checkpoints is None:
            return
        if self._state.position.step > self._saved_step:
            self._state.commit()
            self._write()
        self._checkpoints.join()

    def _leave(self) -> None:
        """Write a checkpoint of the last commit, and exit with code 0."""
        committed = self._state.committed
        if self._checkpoints is not None and committed is not None:
            if committed.position.step > self._saved_step:
                self._checkpoints.write(committed)
            self._checkpoints.join()
            print(f"stopped at step {committed.position.step}, as SIGTERM asked", flush=True)
        raise SystemExit(0)
