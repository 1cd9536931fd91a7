"""A follower in an elastic ring: connects to the leader, takes part, leaves when the model is being saved."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import NoReturn

from horovod_node.attempt.membership import Membership, look_soon_seconds
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored
from horovod_node.elastic.member import ChannelPlace, RingMember
from horovod_node.node.errors import LedgerUnreachableError
from horovod_node.node.waiting import TURN_SECONDS, Interval, wait_for


class ElasticFollower:
    """
    Follows the leader of one attempt.

    Args:
        work: The node's part in the attempt.
        membership: The node's membership in the run.
    """

    def __init__(self, work: NodeAttempt, membership: Membership) -> None:
        self._work = work
        self._membership = membership
        self._ledger = work.ledger.with_patience(0)

    def follow(self, fetched: Future[Restored | None]) -> NoReturn:
        """
        Do this node's part, then stay until it is no longer needed.

        Args:
            fetched: Done when this node has the script, the data, and the checkpoint that it resumes from.

        Raises:
            RunError: If this node's part failed, or the leader cannot be reached.
            PartOverError: If the training ended well.
            ReleasedError: If the fleet was released.
        """
        place = self._wait_for_leader()
        with closing(RingMember(self._work, place, fetched=fetched)) as member:
            while not member.over:
                self._membership.pace = member.pace()
                self._membership.keep(state=member.state, step=member.step)
                notice = self._membership.interruption
                if notice is not None and notice.is_final:
                    member.drain(notice.kind)
                member.turn()
                time.sleep(TURN_SECONDS)
        self._membership.stay_until_saving(place.leader)

    def _wait_for_leader(self) -> ChannelPlace:
        look = Interval(look_soon_seconds(self._work.run.request.gpus))

        def place() -> str | None:
            with suppress(LedgerUnreachableError):
                return self._ledger.channel(self._work.lease) if look.elapsed() else None
            return None

        return ChannelPlace.from_json(wait_for(place, tick=self._membership.keep))
