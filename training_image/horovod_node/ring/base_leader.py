"""The leader: forms the ring, watches the training, saves the model, and answers the state machine for all."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NoReturn

from horovod_node import contract
from horovod_node.attempt.last_seen import LastSeen
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.attempt.task import Task
from horovod_node.checkpoints.mirror import CheckpointMirror
from horovod_node.checkpoints.restore import Restored
from horovod_node.ledger.cost_ceiling import CostCeiling
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.node.errors import LedgerUnreachableError, ReleasedError, RunError
from horovod_node.node.failure import as_run_error
from horovod_node.node.interval import Interval
from horovod_node.rank_process.progress import Progress
from horovod_node.ring.ceiling_stop import stop_at_ceiling
from horovod_node.ring.last_checkpoint import save_last_checkpoint
from horovod_node.ring.model import save_model
from horovod_node.ring.repeated_steps import RepeatedSteps
from horovod_node.ring.stop_before_interruption import hand_over
from horovod_node.ring.trained_time import TrainedTime
from horovod_node.transfer.tensorboard import TensorBoardMirror

_log = logging.getLogger(__name__)

LOOK_SOON_SECONDS = 0.2
"""Between two looks at the nodes while the ring forms or ends."""
LOOK_SECONDS = 2.0
"""The same while it trains."""
TELL_SECONDS = 2.0
"""Between two writes of how far the training is: as often as people look."""
LOOK_FOR_CEILING_SECONDS = 5.0
"""Between two looks for the ring's price; a run without a ceiling has none."""
FAILED_SECONDS = 30.0
"""How long a failure is kept back for the newest checkpoint; the nodes cost meanwhile, so would the steps after it."""
SAVED_SECONDS = 120.0
"""The same for a model that is in S3 already: nobody needs more than the leader by then."""


class Leader(ABC):
    """
    Leads one attempt of a run.

    Args:
        work: What the node works on.
        membership: The node's standing.
    """

    def __init__(self, work: NodeAttempt, membership: Membership) -> None:
        self._work = work
        self._membership = membership
        self._ledger = work.ledger.with_patience(0)
        self._task = Task(work, membership, name=contract.TASK_RING)
        self._nodes: Sequence[NodeItem] = ()
        self._silence = LastSeen()
        self._looked_at = time.monotonic()
        self._ceiling: CostCeiling | None = None
        self._look_for_ceiling = Interval(LOOK_FOR_CEILING_SECONDS)
        self._progress: Progress | None = None
        self._tell_progress = Interval(TELL_SECONDS)
        self._mirror: CheckpointMirror | None = None
        self._tensorboard: TensorBoardMirror | None = None
        self._restored: Restored | None = None
        self._trained = TrainedTime()
        self._lost_steps = RepeatedSteps()

    def lead(self, fetched: Future[Restored | None]) -> NoReturn:
        """
        Take the run from the first node to the model, then stay until released.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it begins with.

        Raises:
            RunError: If the run failed; the state machine knows it then.
            ReleasedError: If the fleet was released, or the state machine gave the attempt up.
        """
        with ExitStack() as attempt:
            with ExitStack() as ring, self._answering_failures():
                answer = self._form(fetched, ring=ring, attempt=attempt)
                self._restored = fetched.result()
                self._continue_counts()
                self._mirror = attempt.enter_context(closing(self._mirror_checkpoints()))
                self._tensorboard = attempt.enter_context(closing(self._mirror_tensorboard()))
                self._task.succeed(answer)
                self._task = self._next_task(contract.TASK_TRAIN)
                answer = self._train()
                self._membership.keep(state=contract.NODE_DONE, step=answer[contract.STEPS])
                self._task.succeed(answer)
            # From now on the others are not needed, and see it.
            self._membership.keep(state=contract.NODE_SAVING)
            with self._answering_failures():
                self._task = self._next_task(contract.TASK_SAVE)
                self._mirror.flush()
                self._tensorboard.hurry()
                saved = save_model(self._work, self._task, keep=self._keep_saving)
                self._save_last_checkpoint(seconds=SAVED_SECONDS)
                self._task.succeed(saved)
            self._membership.idle()

    @abstractmethod
    def _form(self, fetched: Future[Restored | None], *, ring: ExitStack, attempt: ExitStack) -> Mapping[str, Any]:
        """
        Wait for the nodes, let them form the ring, and give the answer to the question for it.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it begins with.
            ring: Closed when the training is over, however it ended.
            attempt: Closed when this node's part in the attempt is over.
        """

    @abstractmethod
    def _train(self) -> Mapping[str, Any]:
        """Wait until every rank of the ring ended well, and give the answer to the question for the training."""

    @contextmanager
    def _answering_failures(self) -> Iterator[None]:
        """
        Tell the state machine of a failure inside before anything is taken down.

        Ranks that hang inside a driver take longer to end than the state machine waits for a heartbeat.
        """
        try:
            yield
        except ReleasedError:
            raise
        except Exception as error:
            failed = as_run_error(error)
            # Ranks that stand still wrote nothing lately, and the ceiling's stop saved what they wrote.
            if failed.error not in (contract.ERROR_TRAINING_STALLED, contract.ERROR_COST_CEILING):
                self._save_last_checkpoint(seconds=FAILED_SECONDS)
            self._task.fail(failed.error, failed.message)
            raise failed from error

    def _resumed(self) -> dict[str, Any]:
        """Give the part of a receipt that says what the attempt began with; nothing when it began at the beginning."""
        if self._restored is None:
            return {}
        return {"resumed": {"run": contract.name_of(self._restored.name.run_id), "step": self._restored.step}}

    def _repeated(self) -> dict[str, int]:
        """Give the part of a receipt that says how many steps were lost and done again; nothing if nobody knows."""
        return {"repeated_steps": self._lost_steps.count} if self._lost_steps.known else {}

    def _trained_answer(self, *, ranks: int, steps: int, ring: Mapping[str, Any]) -> dict[str, Any]:
        """Give the answer to the question for the training: the last ring's ranks, all steps, the ring's life."""
        return {
            contract.RANKS: ranks,
            contract.STEPS: steps,
            contract.TRAINED_GPU_SECONDS: round(self._trained.gpu_seconds, 1),
            contract.RING: ring,
        }

    def _continue_counts(self) -> None:
        """Go on counting where the leader of the attempt before stopped."""
        before = self._work.ledger.progress(self._work.lease)
        reached = int(before.get("step", 0))
        # A checkpoint of a step that nobody knew may be the newest one.
        begun_at = 0 if self._restored is None else self._restored.step
        lost = 0 if begun_at is None else max(0, reached - begun_at)
        self._lost_steps = RepeatedSteps(
            int(before.get("repeated_steps", 0)) + lost, restored=self._restored is not None
        )
        self._trained = TrainedTime(float(before.get(contract.TRAINED_GPU_SECONDS, 0.0)))

    def _next_task(self, name: contract.Task) -> Task:
        return Task(self._work, self._membership, name=name)

    def _tell(self, training: LocalTraining, *, ranks: int, resets: int = 0) -> None:
        """
        Tell people how far the training is, and the ledger what a step costs each of this node's ranks.

        Args:
            training: The leader's ranks, rank 0 among them.
            ranks: Of the whole ring.
            resets: How often it was formed anew.
        """
        self._membership.pace = training.pace()
        training.metrics.ring_size = ranks
        training.metrics.ceiling = self._cost_ceiling()
        self._progress = training.progress().get(0) or self._progress
        if self._progress is not None:
            self._lost_steps.see(self._progress)
            self._trained.see(ring=resets, ranks=ranks, advances=self._progress.advances, now=time.monotonic())
        if self._progress is not None and self._tell_progress.elapsed():
            facts = {
                **self._progress.for_people(),
                "repeated_steps": self._lost_steps.count,
                "ranks": ranks,
                "resets": resets,
                contract.TRAINED_GPU_SECONDS: round(self._trained.gpu_seconds, 1),
                "at": round(time.time(), 1),
            }
            with suppress(LedgerUnreachableError):
                self._ledger.put_progress(self._work.lease, json.dumps(facts), remove_at=self._work.run.remove_at)

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
        """Bring the present checkpoint to S3 if that is possible within *seconds*, and before the ceiling."""
        if self._mirror is None:
            return
        give_up_at = time.time() + seconds
        ceiling = self._cost_ceiling()
        if ceiling is not None:
            give_up_at = min(give_up_at, ceiling.upload_ends_at)

        def keep() -> None:
            self._membership.keep()
            self._task.heartbeat()

        with suppress(LedgerUnreachableError):
            _log.info("%s", save_last_checkpoint(self._mirror, give_up_at=give_up_at, keep=keep))

    def _stop_at_ceiling(self, training: LocalTraining) -> None:
        """
        Stop the training when the run's cost comes close to its ceiling.

        Raises:
            RunError: If it has.
        """
        ceiling = self._cost_ceiling()
        if ceiling is not None and time.time() >= ceiling.stop_at:
            assert self._mirror is not None
            raise stop_at_ceiling(self._membership, self._task, training=training, ceiling=ceiling, mirror=self._mirror)

    def _hand_over(self, training: LocalTraining, members: Container[str]) -> None:
        """
        Stop the training when EC2 is about to take a node away without which the ring cannot go on.

        Args:
            training: The leader's ranks.
            members: Names of those nodes.

        Raises:
            RunError: If it is, and the run may begin anew.
        """
        noticed = [
            node for node in self._nodes if node.id in members and node.interruption == contract.INTERRUPTION_NOTICE
        ]
        if not noticed or not self._restarts_left():
            return

        def keep() -> None:
            self._membership.keep(step=training.step)
            self._task.heartbeat()

        raise hand_over(noticed[0], training=training, keep=keep)

    def _restarts_left(self) -> bool:
        """Whether the state machine would begin the run anew; if not, a ring trains on until it really breaks."""
        try:
            return self._ledger.restarts(self._work.lease) < self._work.run.request.max_restarts
        except LedgerUnreachableError:
            return False

    def _keep_saving(self) -> None:
        """Let the model's upload go on, up to the ceiling itself: nothing else is worth as much."""
        self._membership.keep()
        ceiling = self._cost_ceiling()
        if ceiling is not None and time.time() >= ceiling.upload_ends_at:
            cost = ceiling.explain(time.time())
            raise RunError(contract.ERROR_COST_CEILING, f"{cost} The model's upload had not ended.")

    def _cost_ceiling(self) -> CostCeiling | None:
        """
        Give the ceiling of this ring, which the state machine writes together with its question for the training.

        Until it asks, the run's item has what the ring of an attempt before cost.
        """
        asked = self._task.name != contract.TASK_RING and self._task.is_asked
        if self._ceiling is None and asked and self._look_for_ceiling.elapsed():
            with suppress(LedgerUnreachableError):
                self._ceiling = self._ledger.cost_ceiling(self._work.lease)
        return self._ceiling

    def _look(self) -> bool:
        """Read the nodes' items; `False` when the ledger is away."""
        try:
            self._nodes = self._ledger.nodes(self._work.lease)
        except LedgerUnreachableError:
            return False
        self._looked_at = time.monotonic()
        self._silence.see(self._nodes, now=self._looked_at)
        return True


def ring_output(members: Iterable[NodeItem], *, gpus: int) -> dict[str, Any]:
    """
    Give the answer to the question for the ring: who is in it.

    Args:
        members: The nodes, the leader first.
        gpus: Ranks of the ring.
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
