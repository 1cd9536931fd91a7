"""The leader: forms the ring, watches the training, saves the model, and answers the state machine for all nodes."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NoReturn

from horovod_node import contract
from horovod_node.attempt.last_seen import AttemptNodes
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.checkpoints.restore import Restored
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.node.errors import LedgerUnreachableError, ReleasedError, RunError
from horovod_node.node.failure import as_run_error
from horovod_node.ring.accounting import RunAccounting
from horovod_node.ring.early_stop import CeilingReader, hand_over, save_last_checkpoint, stop_at_ceiling
from horovod_node.ring.model import save_model
from horovod_node.transfer.tensorboard import TensorBoardMirror

_log = logging.getLogger(__name__)

LOOK_SOON_SECONDS = 0.2
"""Time between two polls of the nodes' items while the ring forms or ends."""
LOOK_SECONDS = 2.0
"""Time between two polls of the nodes' items while the ring trains."""
FAILED_SECONDS = 30.0
"""
Longest delay of a failure's report for the upload of the newest checkpoint. All nodes cost money meanwhile, but so
would the repetition of the steps after an older checkpoint.
"""
ANSWER_SECONDS = 5.0
"""Time for the report of a node that was told to stop."""
SAVED_SECONDS = 120.0
"""Longest wait for the last checkpoint once the model is in S3; only the leader still runs then."""


class Leader(ABC):
    """
    Leads one attempt of a run.

    Args:
        work: The node's part in the attempt.
        membership: The node's membership in the run.
    """

    def __init__(self, work: NodeAttempt, membership: Membership) -> None:
        self._work = work
        self._membership = membership
        self._task = Task(work, membership, name=contract.TASK_RING)
        self._nodes = AttemptNodes(work)
        self._ceiling = CeilingReader(work)
        self._accounting: RunAccounting
        self._mirror: CheckpointMirror | None = None

    def lead(self, fetched: Future[Restored | None]) -> NoReturn:
        """
        Lead the attempt from the first node to the saved model, then stay until released.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it resumes from.

        Raises:
            RunError: If the attempt failed; the state machine has been told.
            ReleasedError: If the fleet was released, or the state machine gave the attempt up.
        """
        with ExitStack() as attempt:
            with ExitStack() as ring, self._answering_failures():
                answer = self._form(fetched, ring=ring, attempt=attempt)
                self._accounting = RunAccounting(self._work, fetched.result())
                self._mirror = attempt.enter_context(closing(self._mirror_checkpoints()))
                tensorboard = attempt.enter_context(closing(self._mirror_tensorboard()))
                self._task.succeed(answer)
                self._task = self._next_task(contract.TASK_TRAIN)
                answer = self._train()
                self._membership.keep(state=contract.NODE_DONE, step=answer[contract.STEPS])
                self._task.succeed(answer)
            # From now on the other nodes are not needed; this state tells them to leave.
            self._membership.keep(state=contract.NODE_SAVING)
            with self._answering_failures():
                self._task = self._next_task(contract.TASK_SAVE)
                self._mirror.flush()
                tensorboard.hurry()
                saved = save_model(self._work, self._task, keep=self._keep_saving)
                self._save_last_checkpoint(seconds=SAVED_SECONDS)
                self._task.succeed(saved)
            self._membership.idle()

    @abstractmethod
    def _form(self, fetched: Future[Restored | None], *, ring: ExitStack, attempt: ExitStack) -> Mapping[str, Any]:
        """
        Wait for the nodes, let them form the ring, and return the answer to the ring task.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it resumes from.
            ring: Closed when the training is over, however it ended.
            attempt: Closed when this node's part in the attempt is over.
        """

    @abstractmethod
    def _train(self) -> Mapping[str, Any]:
        """Wait until every rank of the ring has succeeded, and return the answer to the train task."""

    @contextmanager
    def _answering_failures(self) -> Iterator[None]:
        """
        Report a failure inside to the state machine before anything is stopped.

        Ranks that hang inside a driver take longer to end than the state machine waits for a heartbeat.
        """
        try:
            yield
        except ReleasedError:
            raise
        except Exception as error:
            failed = as_run_error(error)
            # Stalled ranks wrote nothing lately, and the stop at the ceiling has uploaded the last checkpoint.
            if failed.error not in (contract.ERROR_TRAINING_STALLED, contract.ERROR_COST_CEILING):
                self._save_last_checkpoint(seconds=self._seconds_to_save())
            try:
                self._task.fail(failed.error, failed.message)
            except ReleasedError:
                # A node that was told to stop tells its followers so: it raises what it could not answer.
                if self._work.conduct.stops_at is None:
                    raise
            raise failed from error

    def _keep(self, *, state: str | None = None, step: int | None = None) -> None:
        """Refresh the node's membership, and send a heartbeat to the state machine."""
        self._membership.keep(state=state, step=step)
        self._task.heartbeat()

    def _next_task(self, name: contract.Task) -> Task:
        return Task(self._work, self._membership, name=name)

    def _tell(self, training: LocalTraining, *, ranks: int, resets: int = 0) -> None:
        """
        Publish the run's progress, and the step timing of this node's ranks.

        Args:
            training: The leader's ranks, rank 0 among them.
            ranks: Size of the ring.
            resets: How often the ring was reset.
        """
        self._membership.pace = training.pace()
        training.metrics.ring_size = ranks
        training.metrics.ceiling = self._ceiling.read(self._task)
        self._accounting.see(training.progress().get(0), ranks=ranks, resets=resets)

    def _mirror_checkpoints(self) -> CheckpointMirror:
        settings, lease = self._work.run.settings, self._work.lease
        return CheckpointMirror(
            self._work.s3,
            folder=self._work.layout.checkpoints,
            bucket=settings.model_bucket,
            run_id=lease.run_id,
            attempt=lease.attempt,
            keep=settings.keep_checkpoints,
            step=lambda: self._membership.step or None,
        )

    def _mirror_tensorboard(self) -> TensorBoardMirror:
        return TensorBoardMirror(
            self._work.s3,
            folder=self._work.layout.tensorboard,
            bucket=self._work.run.settings.model_bucket,
            prefix=contract.tensorboard_prefix(self._work.lease.run_id),
        )

    def _save_last_checkpoint(self, *, seconds: float) -> None:
        """Upload the current checkpoint if that is possible within *seconds* and before the ceiling."""
        if self._mirror is None:
            return
        ceiling = self._ceiling.read(self._task)
        if ceiling is not None:
            seconds = min(seconds, ceiling.upload_ends_at - time.time())
        with suppress(LedgerUnreachableError):
            _log.info("%s", save_last_checkpoint(self._mirror, seconds=seconds, keep=self._keep))

    def _seconds_to_save(self) -> float:
        """Return how long a failure's report may wait for the newest checkpoint; nobody waits for a node that stops."""
        stops_at = self._work.conduct.stops_at
        return FAILED_SECONDS if stops_at is None else stops_at - time.monotonic() - ANSWER_SECONDS

    def _stop_at_ceiling(self, training: LocalTraining) -> None:
        """
        Stop the training when the run's cost comes close to its ceiling.

        Raises:
            RunError: If the training was stopped.
        """
        ceiling = self._ceiling.read(self._task)
        if ceiling is not None and time.time() >= ceiling.stop_at:
            assert self._mirror is not None
            raise stop_at_ceiling(training=training, ceiling=ceiling, mirror=self._mirror, keep=self._keep)

    def _hand_over(self, training: LocalTraining, members: Container[str]) -> None:
        """
        Stop the training when this node was told to stop, or EC2 will interrupt one that the ring cannot lose.

        The ranks of this node are told first. Where a platform tells all nodes at once, as SageMaker does, the others'
        agents go on: if their ranks stopped, the ring would break while rank 0 writes its last checkpoint.

        Args:
            training: The leader's ranks.
            members: Names of the nodes that the ring cannot lose.

        Raises:
            RunError: If the training was stopped; for an interruption it is not if the run has no restart left.
        """
        if self._work.conduct.stops_at is not None:
            me = self._work.node
            raise hand_over(f"The leader {me.id} ({me.address}) was told to stop", training=training, keep=self._keep)
        noticed = [
            node
            for node in self._nodes.items
            if node.id in members and node.interruption == contract.INTERRUPTION_NOTICE
        ]
        if not noticed or not self._restarts_left():
            return
        node = noticed[0]
        facts = f"{node.id} ({node.address}, {node.instance_type}, {node.market}, {node.zone})"
        raise hand_over(f"EC2 interrupts node {facts}", training=training, keep=self._keep)

    def _restarts_left(self) -> bool:
        """Whether the state machine would restart the run; if not, the ring trains until it really breaks."""
        try:
            restarts = self._work.ledger.with_patience(0).restarts(self._work.lease)
            return restarts < self._work.run.request.max_restarts
        except LedgerUnreachableError:
            return False

    def _keep_saving(self) -> None:
        """
        Refresh the node's membership during the model's upload.

        Raises:
            RunError: If the upload's time before the cost ceiling is over.
        """
        self._membership.keep()
        ceiling = self._ceiling.read(self._task)
        if ceiling is not None and time.time() >= ceiling.upload_ends_at:
            cost = ceiling.explain(time.time())
            raise RunError(contract.ERROR_COST_CEILING, f"{cost} The model's upload had not ended.")


def ring_output(members: Iterable[NodeItem], *, gpus: int) -> dict[str, Any]:
    """
    Return the answer to the ring task: the members of the ring.

    Args:
        members: The nodes, the leader first.
        gpus: Size of the ring.
    """
    nodes = list(members)
    return {
        contract.LEADER: {contract.NODE: nodes[0].id, contract.GPUS: nodes[0].gpus},
        contract.GPUS: gpus,
        contract.NODES: [
            {
                contract.NODE: node.id,
                contract.ADDRESS: node.address,
                contract.GPUS: node.gpus,
                contract.INSTANCE_TYPE: node.instance_type,
                contract.ZONE: node.zone,
                contract.MARKET: node.market,
            }
            for node in nodes
        ],
    }
