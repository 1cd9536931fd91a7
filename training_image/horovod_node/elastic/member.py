"""A node's part in an elastic ring: it offers its ranks to the leader, and starts and stops them on its command."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from typing import Final

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.checkpoints.restore import Restored
from horovod_node.elastic.signed_channel import BEAT_SECONDS, Channel, ChannelClosedError, Message, connect
from horovod_node.ledger.ledger import Pace
from horovod_node.local_ranks.local_training import LocalTraining
from horovod_node.local_ranks.rank_assignment import ranks_in_standby
from horovod_node.node.background import in_background
from horovod_node.node.errors import LeaderLostError
from horovod_node.node.failure import Failure, NodeFailedError
from horovod_node.rank_process.control import IN_RING, STANDBY

_log = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 5.0
"""How long a node that lost its leader tries to reconnect. Its ranks have been stopped by then."""
_FATAL: Final = ("script", "stall")
"""Origins of failures that would recur in another ring."""


@dataclass(frozen=True, kw_only=True)
class ChannelPlace:
    """
    Where the leader of an elastic ring accepts connections.

    Args:
        leader: Name of the leader.
        address: Address of the leader.
        port: Port of its control server.
        key: The ring's key, in hexadecimal.
    """

    leader: str
    address: str
    port: int
    key: str

    def to_json(self) -> str:
        """Return the place as JSON, for the ledger."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ChannelPlace:
        """Read the place that the leader wrote."""
        return cls(**json.loads(text))


class RingMember:
    """
    Connects to the leader and takes part, until closed. The main thread must call `turn` repeatedly.

    When the connection ends, the node stops its ranks, because no rank may train without a leader. The node then
    reconnects and offers new ranks.

    Args:
        work: The node's part in the attempt.
        place: Where the leader accepts connections.
        fetched: Done when this node has the script, the data, and the checkpoint that it resumes from.
        leads: Whether this is the leader's own node. The loss of one of its ranks ends the attempt, because rank 0's
            state, which new ranks receive, may be lost with it.
    """

    def __init__(
        self, work: NodeAttempt, place: ChannelPlace, *, fetched: Future[Restored | None], leads: bool = False
    ) -> None:
        self._work = work
        self._place = place
        self._fetched = fetched
        self._leads = leads
        self._channel: Channel | None = None
        self._inbox: queue.Queue[tuple[Channel, Message | ChannelClosedError]] = queue.Queue()
        self._lost_at: float | None = time.monotonic()
        self._connecting: Future[Channel] | None = None
        self._generation = 0
        self._ready = False
        self._assigned: set[int] = set()
        self._exits: dict[int, int] = {}
        self._told_step = -1
        self._offer_at = 0.0
        self._draining = ""
        self.training: LocalTraining | None = None
        """The ranks of the current generation, if there are any."""
        self.over = False
        """Whether the leader has said that the training is done."""
        self.state = contract.NODE_JOINED
        """One of the contract's `NODE_STATES`."""

    @property
    def step(self) -> int:
        """Training steps of this node's slowest rank."""
        return self.training.step if self.training is not None else 0

    def pace(self) -> tuple[Pace, ...]:
        """Return the step timing of each rank of this node, as far as known."""
        return self.training.pace() if self.training is not None else ()

    def turn(self) -> None:
        """
        Handle the leader's messages and check the ranks.

        Raises:
            NodeFailedError: If the script failed or stalled here; the leader has been told.
            LeaderLostError: If the leader cannot be reached any more.
            RunError: If the script or the data could not be downloaded, or the requirements could not be installed.
        """
        self._take_messages()
        if self._channel is None:
            self._reconnect()
            return
        if not self._fetched.done():
            return
        self._check_requirements()
        if self.over:
            # Ranks that were never assigned are still in standby.
            self.stop()
            return
        if self.state == contract.NODE_LEFT:
            return
        if self.training is None:
            if self._draining:
                self._leave_in_order()
            elif time.monotonic() >= self._offer_at:
                self._offer()
            return
        self._look_at_ranks(self.training)

    def _check_requirements(self) -> None:
        try:
            self._fetched.result()
        except NodeFailedError as error:
            if error.failure.error == contract.ERROR_REQUIREMENTS:
                # No other node could install them either.
                self._report(error.failure)
            raise

    def drain(self, kind: str) -> None:
        """Leave the ring at its next commit, because EC2 will interrupt this node; *kind* is the notice."""
        if self._draining:
            return
        self._draining = kind
        self.state = contract.NODE_DRAINING
        self._tell({"draining": kind})

    def notify(self, result: int) -> None:
        """Tell rank 0, if it is on this node, that the ring will change; any thread may call this."""
        training = self.training
        if training is not None and 0 in training.lines:
            training.lines[0].hosts_updated(result)

    def stop(self) -> None:
        """End this node's ranks."""
        training, self.training = self.training, None
        self._ready = False
        if training is not None:
            training.kill()

    def close(self) -> None:
        """Leave: end the ranks and the connection."""
        self.stop()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _offer(self) -> None:
        self._generation += 1
        self._assigned, self._exits = set(), {}
        self.training = LocalTraining(self._work, ranks_in_standby(self._work, leader=self._place.address))

    def _look_at_ranks(self, training: LocalTraining) -> None:
        # Read before the steps: once the leader hears of the ranks' end, it needs their final step count.
        ended = training.exit_codes()
        failure = training.failure()
        self._tell_exits(ended)
        if failure is not None:
            self._tell_exits(training.exit_codes())
            self._take_failure(failure)
            return
        states = [line.state for line in training.lines.values()]
        if not self._ready and all(state == STANDBY for state in states):
            self._ready = True
            self._set_state(contract.NODE_READY)
            self._tell({"ready": self._generation})
        elif not self._ready and training.seconds > self._work.run.settings.first_step_seconds:
            self._report(self._late(training))
        elif any(state == IN_RING for state in states):
            self._set_state(contract.NODE_TRAINING)
        if self._assigned and all(self._exits.get(place) == 0 for place in self._assigned):
            self._set_state(contract.NODE_DONE)
        elif self._exits and not self._assigned:
            self._report(self._early(training))
        if training.step != self._told_step:
            self._told_step = training.step
            self._tell({"step": training.step})

    def _take_failure(self, failure: Failure) -> None:
        if self._draining:
            # A rank that gets no place in the next ring exits like a failed one.
            self._leave_in_order()
        elif failure.origin in _FATAL:
            self._report(failure)
        elif self._leads:
            raise NodeFailedError(replace(failure, error=contract.ERROR_NODE_FAILED))
        else:
            _log.warning("this node replaces its ranks: %s", failure.summary)
            self._tell({"broken": self._generation, "why": failure.summary})
            self.stop()
            self._set_state(contract.NODE_JOINED)

    def _report(self, failure: Failure) -> None:
        """Report a failure that ends the run, to the leader; the raised error is recorded in the ledger."""
        self._tell({"failure": failure.to_json()})
        raise NodeFailedError(failure)

    def _late(self, training: LocalTraining) -> Failure:
        return self._failure(f"did not reach hvd.init() within {training.seconds:.0f} s")

    def _early(self, training: LocalTraining) -> Failure:  # noqa: ARG002 - beside its twin
        return self._failure("ended without hvd.init(): an elastic ring needs a script that trains with Horovod")

    def _failure(self, what: str, *, error: str = contract.ERROR_TRAINING_FAILED) -> Failure:
        node = self._work.node
        return Failure(
            error=error,
            origin="script" if error == contract.ERROR_TRAINING_FAILED else "node",
            summary=f"The script on {node.id} ({node.address}) {what}.",
            node=node.id,
            at=time.time(),
        )

    def _leave_in_order(self) -> None:
        self.stop()
        self.state = contract.NODE_LEFT
        self._tell({"left": True})
        _log.info("%s has left the ring: %s", self._work.node.id, self._draining)

    def _set_state(self, state: str) -> None:
        if self.state not in (contract.NODE_DRAINING, contract.NODE_LEFT):
            self.state = state

    def _tell_exits(self, codes: Mapping[int, int]) -> None:
        for place, code in codes.items():
            if place not in self._exits:
                self._exits[place] = code
                self._tell({"exit": [self._generation, place, code]})

    def _take_messages(self) -> None:
        while not self._inbox.empty():
            channel, message = self._inbox.get()
            if channel is not self._channel:
                continue
            if isinstance(message, ChannelClosedError):
                self._disconnect(str(message))
            else:
                self._handle(message)

    def _handle(self, message: Message) -> None:
        training = self.training
        if "start" in message and training is not None:
            generation, place, environment = message["start"]
            if generation == self._generation:
                self._assigned.add(place)
                training.lines[place].start(environment)
        if message.get("stop") == self._generation:
            self.stop()
            self._offer_at = time.monotonic()
            if not self._draining:
                self._set_state(contract.NODE_JOINED)
        if "over" in message:
            self.over = True

    def _disconnect(self, why: str) -> None:
        _log.warning("lost the connection to leader %s: %s", self._place.leader, why)
        if self._leads and self._assigned:
            # The leader's own node was stopped so long that all other nodes have lost it too; new ranks have no state.
            raise NodeFailedError(self._failure(f"lost its ring: {why}", error=contract.ERROR_NODE_FAILED))
        self._channel = None
        self._lost_at = time.monotonic()
        self.stop()
        self._set_state(contract.NODE_JOINED)

    def _reconnect(self) -> None:
        if self._connecting is None:
            self._connecting = _connect(self._place, source=self._work.node.address)
        if not self._connecting.done():
            return
        connecting, self._connecting = self._connecting, None
        try:
            channel = connecting.result()
        except ChannelClosedError as reason:
            if self._lost_at is not None and time.monotonic() - self._lost_at > RECONNECT_SECONDS:
                leader = f"{self._place.leader} ({self._place.address})"
                raise LeaderLostError(f"Leader {leader} is gone: {reason}.") from None
            time.sleep(0.1)
            return
        self._channel, self._lost_at, self._told_step = channel, None, -1
        node = self._work.node
        self._tell({"hello": {"node": node.id, "address": node.address, "gpus": node.gpus}})
        if self._draining:
            self._tell({"draining": self._draining})
        threading.Thread(target=self._listen, args=(channel,), name="leader", daemon=True).start()
        threading.Thread(target=_beat, args=(channel,), name="leader-beat", daemon=True).start()

    def _listen(self, channel: Channel) -> None:
        try:
            while True:
                message = channel.receive()
                if "sever" in message:
                    # Handled here, not in the main thread's next turn: a late "sever" would break the next ring.
                    self._sever(message["sever"])
                elif message:
                    self._inbox.put((channel, message))
        except ChannelClosedError as reason:
            self._inbox.put((channel, reason))

    def _sever(self, addresses: list[str]) -> None:
        training = self.training
        for line in training.lines.values() if training is not None else ():
            line.sever(addresses)

    def _tell(self, message: Message) -> None:
        if self._channel is not None:
            try:
                self._channel.send(message)
            except ChannelClosedError as reason:
                self._inbox.put((self._channel, reason))


def _beat(channel: Channel) -> None:
    """Send heartbeats; runs in its own thread, because an AWS call may block the main one for `SILENCE_SECONDS`."""
    try:
        while True:
            time.sleep(BEAT_SECONDS)
            channel.send({})
    except ChannelClosedError:
        return


def _connect(place: ChannelPlace, *, source: str) -> Future[Channel]:
    return in_background(lambda: connect(place.address, place.port, key=bytes.fromhex(place.key), source=source))
