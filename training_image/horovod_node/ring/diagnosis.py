"""Why a ring broke: the failures that its nodes recorded, the nodes that vanished, and which of these is the reason."""

from __future__ import annotations

import time
from collections.abc import Callable

from horovod_node import contract
from horovod_node.attempt.last_seen import AttemptNodes
from horovod_node.attempt.membership import refresh_seconds
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.local_ranks.plan import RingPlan
from horovod_node.node.errors import LedgerUnreachableError, RunError
from horovod_node.node.failure import REASONS, Failure, run_error

LOOK_SECONDS = 0.2
SETTLE_SECONDS = 1.0
"""How long to wait, after a failure that explains the others, for one that happened earlier."""
MISSED_REFRESHES = 3
"""Refresh intervals without a new item after which a node counts as gone."""


class Explanation:
    """
    Collects the failures of an attempt, for the leader.

    Args:
        work: The node's part in the attempt.
        nodes: The attempt's nodes, as the leader last read them.
    """

    def __init__(self, work: NodeAttempt, nodes: AttemptNodes) -> None:
        self._work = work
        self._ledger = work.ledger.with_patience(0)
        self._nodes = nodes

    def of_failed_nodes(self) -> RunError:
        """Return the error of nodes that failed before the ring formed."""
        failures = self._recorded()
        if failures:
            return run_error(failures)
        return RunError(contract.ERROR_NODE_FAILED, "A node failed before the ring formed, and recorded no reason.")

    def of_broken_ring(
        self, training: LocalTraining, plan: RingPlan, *, own: Failure | None, keep_waiting: Callable[[], None]
    ) -> RunError:
        """
        Return the error that says why the ring of *plan* broke.

        Waits for the other nodes' records: one second once a failure explains the others; otherwise until each node has
        recorded a failure or has not refreshed its item for `MISSED_REFRESHES` intervals, and at most twice that long.

        Args:
            training: The leader's own ranks; they must not be stopped yet, or their end would look like a reason.
            plan: The ring.
            own: The failure of the leader's own ranks, if it saw one.
            keep_waiting: Called repeatedly.
        """
        patience = MISSED_REFRESHES * refresh_seconds(self._work.run.settings)
        started = time.monotonic()
        explained_at: float | None = None
        while True:
            if own is None or own.origin == "ring":
                own = training.failure() or own
            recorded = self._recorded()
            if own is None and any(failure.origin == "stall" for failure in recorded):
                # Checked before that node ends its ranks: after that, ours would only report the loss of the ring.
                own = training.stands_still_too()
            failures = [*recorded, *([own] if own else [])]
            self._nodes.read()
            others = [node for node in self._nodes.items if plan.host(node.id) and node.id != self._work.node.id]
            now = time.monotonic()
            if explained_at is None and any(failure.origin in REASONS for failure in failures):
                explained_at = now
            spoken = {failure.node for failure in failures}
            silent = [node for node in others if node.id not in spoken and node.state != contract.NODE_DONE]
            lost = [node for node in silent if self._nodes.quiet_seconds(node.id) > patience]
            heard_all = len(lost) == len(silent) and (own is not None or training.done)
            settled = explained_at is not None and now - explained_at > SETTLE_SECONDS
            # A node that lives but records nothing must not delay the answer without end.
            if heard_all or settled or now - started > 2 * patience:
                break
            keep_waiting()
            time.sleep(LOOK_SECONDS)
        failures += [self._lost(node, plan) for node in lost]
        if own is not None:
            self._record(own)
        error = run_error(failures) if failures else RunError(contract.ERROR_NODE_FAILED, "The ring broke.")
        return RunError(error.error, error.message + self._note(failures, others, plan))

    def _recorded(self) -> list[Failure]:
        try:
            texts = self._ledger.failures(self._work.lease)
        except LedgerUnreachableError:
            return []
        return [Failure.from_json(text) for text in texts]

    def _record(self, failure: Failure) -> None:
        try:
            self._ledger.put_failure(
                self._work.lease, self._work.node.id, failure.to_json(), remove_at=self._work.run.remove_at
            )
        except LedgerUnreachableError:
            # The answer to the state machine still contains the failure.
            return

    def _lost(self, node: NodeItem, plan: RingPlan) -> Failure:
        ranks = plan.ranks_of(node.id)
        which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        return Failure(
            error=contract.ERROR_NODE_FAILED,
            origin="node",
            summary=(
                f"Node {node.id} ({node.address}, {node.instance_type}, {node.market}, {node.zone}) with {which} is "
                f"gone: it gave no sign of life since step {node.step}. Its instance or its agent ended."
            ),
            node=node.id,
            at=node.seen_at,
        )

    def _note(self, failures: list[Failure], others: list[NodeItem], plan: RingPlan) -> str:
        """Name the ranks that had already succeeded when the others lost the ring."""
        done = [node for node in others if node.state == contract.NODE_DONE]
        if not done or any(failure.origin != "ring" for failure in failures):
            return ""
        ranks = ", ".join(str(rank) for node in done for rank in plan.ranks_of(node.id))
        return (
            f"\n\nRanks that had ended with exit code 0 before: {ranks}. All ranks must take the same number of steps."
        )
