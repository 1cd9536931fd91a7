"""Membership of a node in its run: its ledger item is refreshed, and the fleet's lease is checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import NoReturn

from horovod_node import contract
from horovod_node.attempt.lease_renewal import LeaseRenewal, renewal_seconds
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Pace
from horovod_node.node.errors import LedgerUnreachableError, PartOverError, ReleasedError
from horovod_node.node.interruption import Interruption, InterruptionWatch
from horovod_node.node.waiting import Interval
from horovod_node.transfer.requirements import Installation

_log = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
"""Longest time between two writes of the node's item while nothing else goes wrong."""
LOOK_SOON_SECONDS = 0.2
"""Time between two looks of a small run's nodes at what they wait for."""
LEASE_SECONDS = 3.0
"""Time between two looks at the lease."""


def look_soon_seconds(gpus: int) -> float:
    """
    Give the time between two looks at an item that every node of a run waits for.

    All of a run's items are in one partition, of which DynamoDB reads 3,000 units a second (Developer Guide, "Burst
    and adaptive capacity"); beyond 100 nodes, all of them together look 500 times a second.

    Args:
        gpus: Of the run, which are at least as many as its nodes.
    """
    return max(LOOK_SOON_SECONDS, gpus / 500)


def refresh_seconds(settings: contract.RunSettings) -> float:
    """Give the time between two writes of a node's item: often enough for every limit that is judged by them."""
    return min(REFRESH_SECONDS, settings.heartbeat_seconds / 4, settings.stall_seconds / 4)


class Membership:
    """
    Keeps the node's item fresh, and ends the agent when the lease is gone.

    Args:
        work: What the node works on.
        watch: Hears of interruptions, which are written down at once. Default: there are none.
        fetched: Done when the node has the script and the data; tells when the script's requirements were installed.
            Default: nothing is told of that.
    """

    def __init__(
        self,
        work: NodeAttempt,
        *,
        watch: InterruptionWatch | None = None,
        fetched: Future[Installation | None] | None = None,
    ) -> None:
        settings = work.run.settings
        self._work = work
        self._ledger = work.ledger.with_patience(0)
        self._refresh = Interval(refresh_seconds(settings))
        self._lease = Interval(min(LEASE_SECONDS, settings.heartbeat_seconds / 4, renewal_seconds(settings)))
        self._renewal: LeaseRenewal | None = None
        self._watch = watch or InterruptionWatch(None)
        self._fetched = fetched
        self._interruption: Interruption | None = None
        self._state = contract.NODE_JOINED
        self.step = 0
        """Training steps of the node's slowest rank."""
        self.pace: Sequence[Pace] = ()
        """What a step costs each rank of this node; written with the next refresh."""
        self.is_asked = False
        """
        Whether the state machine waits for an answer of this node, as far as it knows. An execution that was stopped
        asks nothing any more, and nobody else may be there to take its lease: so the lease ends with the questions.
        """
        self._heard_at = time.monotonic()

    @property
    def interruption(self) -> Interruption | None:
        """The notice that the node had of an interruption, if it had one."""
        return self._watch.interruption

    def lead(self) -> None:
        """Renew the run's lease from now on, too, as long as the state machine waits for this node."""
        self._renewal = LeaseRenewal(self._ledger, fleet=self._work.node.fleet, settings=self._work.run.settings)

    def keep(self, *, state: str | None = None, step: int | None = None) -> None:
        """
        Do what is due; to be called in every turn of every loop.

        Args:
            state: The node's new state, written at once. Default: as it was.
            step: Training steps of the node's slowest rank. Default: as it was.

        Raises:
            ReleasedError: If the fleet is no longer this attempt's.
            LedgerUnreachableError: If the ledger has been away for as long as a lease is good for. For less it does not
                disturb the training; then the node cannot tell any more whether the fleet is still its run's.
        """
        if state is not None and state != self._state:
            _log.info("%s is %s", self._work.node.id, state)
            self._state = state
            self._refresh.expire_now()
        if step is not None:
            self.step = step
        interruption = self.interruption
        if interruption is not self._interruption:
            self._interruption = interruption
            self._refresh.expire_now()
        try:
            if self._refresh.elapsed():
                self._write()
            if self._lease.elapsed():
                self._check_lease()
        except LedgerUnreachableError as error:
            # Not written: what is new must not wait for the next turn of the interval.
            self._refresh.expire_now()
            silent = time.monotonic() - self._heard_at
            if silent > self._work.run.settings.lease_seconds:
                raise
            _log.warning("working on without the ledger for %.0f s: %s", silent, error)
        else:
            self._heard_at = time.monotonic()

    def idle(self) -> NoReturn:
        """
        Stay until the fleet is released; the instance is counted as long as its agent lives.

        Raises:
            ReleasedError: In the end.
        """
        while True:
            self.keep()
            time.sleep(0.5)

    def stay_until_saving(self, leader: str) -> NoReturn:
        """
        Stay until *leader* saves the model, then note that this node leaves: from then on it would only cost.

        The leader says so when the state machine has its answer to the training. Until then the attempt may still be
        lost, and a node that stayed can begin the next one at once.

        Raises:
            PartOverError: In the end.
            ReleasedError: If the fleet was released, or the leader gave the attempt up.
        """
        look = Interval(LEASE_SECONDS)
        while True:
            self.keep()
            if look.elapsed():
                try:
                    led = self._ledger.node(self._work.lease, leader)
                except LedgerUnreachableError:
                    led = None
                if led is not None and led.state == contract.NODE_FAILED:
                    raise ReleasedError(f"leader {leader} gave the attempt up")
                if led is not None and led.state == contract.NODE_SAVING:
                    with suppress(LedgerUnreachableError):
                        self._write(leaves=True)
                    raise PartOverError(f"the training is done, and leader {leader} saves the model")
            time.sleep(0.5)

    def _write(self, *, leaves: bool = False) -> None:
        self._ledger.put_node(
            self._work.lease,
            self._work.node,
            state=self._state,
            step=self.step,
            remove_at=self._work.run.remove_at,
            interruption=self._interruption,
            pace=self.pace,
            installation=self._installation(),
            leaves=leaves,
        )

    def _installation(self) -> Installation | None:
        fetched = self._fetched
        return None if fetched is None or not fetched.done() or fetched.exception() else fetched.result()

    def _check_lease(self) -> None:
        lease = self._ledger.lease(self._work.node.fleet)
        if lease is None:
            raise ReleasedError(f"nobody holds fleet {self._work.node.fleet} any more")
        if lease != self._work.lease:
            raise ReleasedError(
                f"fleet {self._work.node.fleet} is held by {lease.holder}, not by {self._work.lease.holder}"
            )
        if self._renewal is not None and self.is_asked:
            self._renewal.renew(lease)
