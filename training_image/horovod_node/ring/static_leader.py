"""The leader of a ring that never changes: all ranks start together, and the loss of one ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from typing import Any

from horovod_node import contract
from horovod_node.attempt.membership import look_soon_seconds
from horovod_node.checkpoints.restore import Restored
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.local_ranks.plan import RingPlan, plan_ring
from horovod_node.local_ranks.rank_assignment import ranks_of_plan
from horovod_node.node.errors import RunError
from horovod_node.node.failure import Failure
from horovod_node.node.waiting import TURN_SECONDS, Interval, wait_for
from horovod_node.ring.base_leader import LOOK_SECONDS, LOOK_SOON_SECONDS, Leader, ring_output
from horovod_node.ring.diagnosis import Explanation
from horovod_node.ring.rendezvous import Rendezvous
from horovod_node.ring.step_timing import slowest_rank


class StaticLeader(Leader):
    """Leads a ring of exactly as many GPUs as the request names."""

    _plan: RingPlan
    _training: LocalTraining

    def _form(self, fetched: Future[Restored | None], *, ring: ExitStack, attempt: ExitStack) -> Mapping[str, Any]:  # noqa: ARG002
        plan = self._plan = self._wait_for_nodes(fetched)
        rendezvous = ring.enter_context(closing(Rendezvous(plan.addresses[0], plan.port)))
        rendezvous.init(plan.slots())
        self._work.ledger.put_plan(self._work.lease, plan.to_text(), remove_at=self._work.run.remove_at)
        self._training = ring.enter_context(LocalTraining(self._work, ranks_of_plan(self._work, plan)))
        known = {node.id: node for node in self._nodes.items}
        return ring_output((known[host.node] for host in plan.hosts), gpus=plan.size)

    def _wait_for_nodes(self, fetched: Future[Restored | None]) -> RingPlan:
        """Wait until the ready nodes have the GPUs that the request asks for."""
        look = Interval(look_soon_seconds(self._work.run.request.gpus))

        def keep() -> None:
            if fetched.done():
                fetched.result()
            self._keep(state=contract.NODE_READY if fetched.done() else None)

        def plan() -> RingPlan | None:
            if not look.elapsed() or not self._nodes.read():
                return None
            if any(node.state == contract.NODE_FAILED for node in self._nodes.items):
                raise Explanation(self._work, self._nodes).of_failed_nodes()
            return plan_ring(
                self._nodes.items,
                leader=self._work.node.id,
                gpus=self._work.run.request.gpus,
                port=contract.RENDEZVOUS_PORT,
            )

        return wait_for(plan, tick=keep)

    def _train(self) -> Mapping[str, Any]:
        """
        Wait until every rank of the ring ended well.

        Each heartbeat follows a check of the ranks' steps: a stall is a failure, and ends the heartbeats.
        """
        look, training, plan = Interval(LOOK_SECONDS), self._training, self._plan
        while True:
            # Read before the steps: a rank that ends in between may have taken more.
            done = training.done
            failure = training.failure()
            if failure is not None:
                raise self._explain(failure)
            self._tell(training, ranks=plan.size)
            self._keep(state=contract.NODE_TRAINING, step=training.step)
            self._stop_at_ceiling(training)
            self._hand_over(training, [host.node for host in plan.hosts])
            if done:
                look.seconds = LOOK_SOON_SECONDS
            if look.elapsed() and self._nodes.read():
                others = [node for node in self._nodes.items if plan.host(node.id) and node.id != self._work.node.id]
                if any(node.state == contract.NODE_FAILED or self._is_lost(node) for node in others):
                    raise self._explain()
                if done and all(node.state == contract.NODE_DONE for node in others):
                    ring = self._describe([host.node for host in plan.hosts])
                    return self._accounting.answer(ranks=plan.size, steps=training.step, ring=ring)
            time.sleep(TURN_SECONDS)

    def _describe(self, members: Sequence[str]) -> dict[str, Any]:
        """Describe the ring for the receipt."""
        nodes = [node for node in self._nodes.items if node.id in members]
        return {
            "elastic": False,
            "interruptions": [
                {"node": node.id, "kind": node.interruption, "at": node.interrupted_at, "left_in_order": False}
                for node in nodes
                if node.interruption
            ],
            **slowest_rank(nodes),
        }

    def _explain(self, own: Failure | None = None) -> RunError:
        return Explanation(self._work, self._nodes).of_broken_ring(
            self._training, self._plan, own=own, keep_waiting=lambda: self._keep(step=self._training.step)
        )

    def _is_lost(self, node: NodeItem) -> bool:
        return self._nodes.quiet_seconds(node.id) > 3 * self._work.run.settings.heartbeat_seconds
