"""The leader: forms the ring, watches the training, saves the model, and answers the state machine for all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, NoReturn

from horovod_node import contract
from horovod_node.ceiling import CostCeiling
from horovod_node.ceiling_stop import stop_at_ceiling
from horovod_node.errors import LedgerUnreachableError, ReleasedError, RunError
from horovod_node.every import Every
from horovod_node.explain import Explanation
from horovod_node.failure import Failure, as_run_error
from horovod_node.ledger import NodeItem
from horovod_node.local_training import TURN_SECONDS, LocalTraining
from horovod_node.membership import Membership
from horovod_node.rendezvous import Rendezvous
from horovod_node.ring import RingPlan, plan_ring
from horovod_node.save import save_model
from horovod_node.silence import Silence
from horovod_node.task import Task
from horovod_node.work import Work

LOOK_SOON_SECONDS = 0.2
"""Between two looks at the nodes while the ring forms or ends."""
LOOK_SECONDS = 2.0
"""The same while it trains."""
LOOK_FOR_CEILING_SECONDS = 5.0
"""Between two looks for the run's prices, which the state machine finds out while the ring already trains."""


class Leader:
    """
    Leads one attempt of a run.

    Args:
        work: What the node works on.
        membership: The node's standing.
    """

    def __init__(self, work: Work, membership: Membership) -> None:
        self._work = work
        self._membership = membership
        self._ledger = work.ledger.with_patience(0)
        self._task = self._next_task(contract.TASK_RING)
        self._nodes: Sequence[NodeItem] = ()
        self._silence = Silence()
        self._ceiling: CostCeiling | None = None
        self._look_for_ceiling = Every(LOOK_FOR_CEILING_SECONDS)

    def lead(self, fetched: Future[None]) -> NoReturn:
        """
        Take the run from the first node to the model, then stay until released.

        Args:
            fetched: Done when this node has the script and the data.

        Raises:
            RunError: If the run failed; the state machine knows it then.
            ReleasedError: If the fleet was released, or the state machine gave the attempt up.
        """
        with ExitStack() as ring, self._answering_failures():
            plan = self._form_ring(fetched)
            ring.enter_context(closing(Rendezvous(plan)))
            self._work.ledger.put_plan(self._work.lease, plan.to_json(), remove_at=self._work.run.remove_at)
            training = ring.enter_context(LocalTraining(self._work, plan))
            self._task.succeed(ring_output(plan, self._nodes))
            self._task = self._next_task(contract.TASK_TRAIN)
            self._train(training, plan)
            self._membership.keep(state=contract.NODE_DONE, step=training.step)
            self._task.succeed({contract.RANKS: plan.size, contract.STEPS: training.step})
        with self._answering_failures():
            self._task = self._next_task(contract.TASK_SAVE)
            self._task.succeed(save_model(self._work, self._task, keep=self._keep_saving))
        self._membership.idle()

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
            self._task.fail(failed.error, failed.message)
            raise failed from error

    def _next_task(self, name: contract.Task) -> Task:
        return Task(self._work, self._membership, name=name)

    def _form_ring(self, fetched: Future[None]) -> RingPlan:
        """Wait until the ready nodes have the GPUs that the request asks for."""
        look = Every(LOOK_SOON_SECONDS)
        while True:
            if fetched.done():
                fetched.result()
                self._membership.keep(state=contract.NODE_READY)
            else:
                self._membership.keep()
            self._task.heartbeat()
            if look.due() and self._look():
                if any(node.state == contract.NODE_FAILED for node in self._nodes):
                    raise Explanation(self._work, self._silence).of_failed_nodes()
                plan = plan_ring(
                    self._nodes,
                    leader=self._work.node.id,
                    gpus=self._work.run.request.gpus,
                    port=contract.RENDEZVOUS_PORT,
                )
                if plan is not None:
                    return plan
            time.sleep(TURN_SECONDS)

    def _train(self, training: LocalTraining, plan: RingPlan) -> None:
        """
        Wait until every rank of the ring ended well.

        The heartbeat stands behind the look at the ranks' steps: ranks that stand still are a failure, and then the
        heartbeats end.
        """
        look = Every(LOOK_SECONDS)
        while True:
            failure = training.failure()
            if failure is not None:
                raise self._explain(training, plan, failure)
            self._membership.keep(state=contract.NODE_TRAINING, step=training.step)
            self._task.heartbeat()
            ceiling = self._cost_ceiling()
            if ceiling is not None and time.time() >= ceiling.stop_at:
                raise stop_at_ceiling(self._work, self._membership, self._task, training=training, ceiling=ceiling)
            if training.done:
                look.seconds = LOOK_SOON_SECONDS
            if look.due() and self._look():
                others = [node for node in self._nodes if plan.host(node.id) and node.id != self._work.node.id]
                if any(node.state == contract.NODE_FAILED or self._is_lost(node) for node in others):
                    raise self._explain(training, plan)
                if training.done and all(node.state == contract.NODE_DONE for node in others):
                    return
            time.sleep(TURN_SECONDS)

    def _explain(self, training: LocalTraining, plan: RingPlan, own: Failure | None = None) -> RunError:
        def keep_waiting() -> None:
            self._membership.keep(step=training.step)
            self._task.heartbeat()

        explanation = Explanation(self._work, self._silence)
        return explanation.of_broken_ring(training, plan, own=own, keep_waiting=keep_waiting)

    def _keep_saving(self) -> None:
        """Let the model's upload go on, up to the ceiling itself: nothing else is worth as much."""
        self._membership.keep()
        ceiling = self._cost_ceiling()
        if ceiling is not None and time.time() >= ceiling.upload_ends_at:
            cost = ceiling.explain(time.time())
            raise RunError(contract.ERROR_COST_CEILING, f"{cost} The model's upload had not ended.")

    def _cost_ceiling(self) -> CostCeiling | None:
        """Give the run's ceiling, which is written once."""
        if self._ceiling is None and self._look_for_ceiling.due():
            with suppress(LedgerUnreachableError):
                self._ceiling = self._ledger.cost_ceiling(self._work.lease.run)
        return self._ceiling

    def _look(self) -> bool:
        """Read the nodes' items; `False` when the ledger is away."""
        try:
            self._nodes = self._ledger.nodes(self._work.lease)
        except LedgerUnreachableError:
            return False
        self._silence.see(self._nodes, now=time.monotonic())
        return True

    def _is_lost(self, node: NodeItem) -> bool:
        return self._silence.seconds(node.id, now=time.monotonic()) > 3 * self._work.run.settings.heartbeat_seconds


def ring_output(plan: RingPlan, nodes: Sequence[NodeItem]) -> dict[str, Any]:
    """Give the answer to the question for the ring: who is in it, the leader first."""
    known = {node.id: node for node in nodes}
    members = [known[host.node] for host in plan.hosts]
    return {
        contract.LEADER: {contract.NODE: members[0].id, contract.GPUS: members[0].gpus},
        contract.GPUS: plan.size,
        contract.NODES: [
            {
                contract.NODE: node.id,
                contract.ADDRESS: node.address,
                contract.GPUS: node.gpus,
                contract.INSTANCE_TYPE: node.instance_type,
                contract.ZONE: node.zone,
                contract.MARKET: node.market,
            }
            for node in members
        ],
    }
