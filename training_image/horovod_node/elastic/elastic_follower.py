"""A follower in an elastic ring: connects to the leader, takes part, leaves when the model is being saved."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import NoReturn

from horovod_node.attempt.membership import Membership
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored
from horovod_node.elastic.member import ChannelPlace, RingMember
from horovod_node.node.waiting import TURN_SECONDS


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
        place = ChannelPlace.from_json(self._membership.wait_for(partial(self._ledger.channel, self._work.lease)))
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
