"""A follower: waits for the leader's plan, runs its part of the ring, leaves when the model is being saved."""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import partial
from typing import NoReturn

from horovod_node import contract
from horovod_node.attempt.last_seen import LastSeen
from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.local_ranks.plan import RingPlan
from horovod_node.local_ranks.rank_assignment import ranks_of_plan
from horovod_node.node.errors import LeaderLostError, LedgerUnreachableError, ReleasedError
from horovod_node.node.failure import Failure, NodeFailedError
from horovod_node.node.waiting import TURN_SECONDS, Interval, wait, wait_until

STAND_STILL_SECONDS = 5.0
"""How long stalled ranks are kept alive: the nodes of one ring notice a stall within some two seconds of each other."""


class Follower:
    """
    Follows the leader of one attempt.

    Args:
        work: The node's part in the attempt.
        membership: The node's membership in the run.
        leader: Name of the node that leads.
    """

    def __init__(self, work: NodeAttempt, membership: Membership, *, leader: str) -> None:
        self._work = work
        self._membership = membership
        self._ledger = work.ledger.with_patience(0)
        self._leader = leader
        self._silence = LastSeen()
        self._look_at_leader = Interval(work.run.settings.heartbeat_seconds / 4)

    def follow(self, fetched: Future[Restored | None]) -> NoReturn:
        """
        Do this node's part, then stay until it is no longer needed.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it resumes from.

        Raises:
            RunError: If this node's part failed, or the leader stopped refreshing its item.
            PartOverError: If the training ended well.
            ReleasedError: If the fleet was released, or the leader gave the attempt up.
        """
        wait_until(fetched.done, tick=self._membership.keep)
        fetched.result()
        plan = RingPlan.from_text(
            self._membership.wait_for(partial(self._ledger.plan, self._work.lease), state=contract.NODE_READY)
        )
        if plan.host(self._work.node.id) is not None:
            self._train(plan)
        self._membership.stay_until_saving(self._leader)

    def _train(self, plan: RingPlan) -> None:
        with LocalTraining(self._work, ranks_of_plan(self._work, plan)) as training:
            while not training.done:
                failure = training.failure()
                if failure is not None:
                    if failure.origin == "stall":
                        self._stand_still_with(failure)
                    raise NodeFailedError(failure)
                self._membership.pace = training.pace()
                self._membership.keep(state=contract.NODE_TRAINING, step=training.step)
                self._check_leader()
                time.sleep(TURN_SECONDS)
            training.failure()
            self._membership.keep(state=contract.NODE_DONE, step=training.step)

    def _stand_still_with(self, failure: Failure) -> None:
        """
        Record the stall, then keep the ranks alive for a while so that other nodes can report theirs.

        Stopping them now would break the ring: ranks of other nodes would report its loss instead of where they wait.
        """
        self._work.ledger.put_failure(
            self._work.lease, self._work.node.id, failure.to_json(), remove_at=self._work.run.remove_at
        )
        wait(STAND_STILL_SECONDS, tick=partial(self._membership.keep, state=contract.NODE_FAILED))

    def _check_leader(self) -> None:
        """Stop when the leader gave up or stopped refreshing its item: no other node reports for this node's ranks."""
        if not self._look_at_leader.elapsed():
            return
        try:
            leader = self._ledger.node(self._work.lease, self._leader)
        except LedgerUnreachableError:
            return
        if leader is None:
            raise ReleasedError(f"the item of leader {self._leader} was removed from the ledger")
        if leader.state == contract.NODE_FAILED:
            raise ReleasedError(f"leader {self._leader} gave the attempt up")
        now = time.monotonic()
        self._silence.see([leader], now=now)
        silent = self._silence.seconds(leader.id, now=now)
        if silent > 3 * self._work.run.settings.heartbeat_seconds:
            raise LeaderLostError(f"Leader {leader.id} ({leader.address}) gave no sign of life for {silent:.0f} s.")
