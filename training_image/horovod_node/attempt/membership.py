"""Membership of a node in its run: its ledger item is refreshed, and the fleet's lease is checked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import NoReturn

from horovod_node import contract
from horovod_node.attempt.lease_renewal import LeaseRenewal, renewal_seconds
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import Pace
from horovod_node.node.errors import FinishedError, LedgerUnreachableError, PartOverError, ReleasedError
from horovod_node.node.interruption import Interruption, InterruptionWatch
from horovod_node.node.waiting import Interval, wait_for
from horovod_node.transfer.requirements import Installation

_log = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
"""Longest time between two writes of the node's item while calls to the ledger succeed."""
LOOK_SOON_SECONDS = 0.2
"""Time between two polls by a node of a small run for an item that it waits for."""
LEASE_SECONDS = 3.0
"""Longest time between two checks of the lease."""


def look_soon_seconds(gpus: int) -> float:
    """
    Return the time between two polls for an item that every node of a run waits for.

    A run's items share one partition, from which DynamoDB serves 3,000 read units a second (Developer Guide, "Burst
    and adaptive capacity"). The nodes together poll at most 500 times a second.

    Args:
        gpus: GPUs of the run; it has at most as many nodes.
    """
    return max(LOOK_SOON_SECONDS, gpus / 500)


def refresh_seconds(settings: contract.RunSettings) -> float:
    """Return the time between two writes of a node's item, short enough for the heartbeat and stall limits."""
    return min(REFRESH_SECONDS, settings.heartbeat_seconds / 4, settings.stall_seconds / 4)


class Membership:
    """
    Refreshes the node's ledger item, and ends its part in the run when the lease is gone.

    Args:
        work: The node's part in the attempt.
        watch: Source of interruption notices, which are written to the ledger at once. Default: there are none.
        fetched: Done when the node has the script and the data; its result says when the script's requirements were
            installed. Default: no installation is recorded.
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
        """Step timing of each rank of this node; written with the next refresh."""
        self.is_asked = False
        """
        Whether this node holds a task token that the state machine still waits on, as far as it knows. The lease is
        renewed only then: after an execution was stopped, the lease must expire even if nothing else takes it.
        """
        self._heard_at = time.monotonic()

    @property
    def interruption(self) -> Interruption | None:
        """The interruption notice that the node has received, if any."""
        return self._watch.interruption

    def lead(self) -> None:
        """From now on also renew the run's lease, while the state machine waits for this node."""
        self._renewal = LeaseRenewal(self._ledger, fleet=self._work.node.fleet, settings=self._work.run.settings)

    def keep(self, *, state: str | None = None, step: int | None = None) -> None:
        """
        Refresh the node's item and check the lease when due. Every loop of the agent calls this on each iteration.

        Args:
            state: The node's new state, written at once. Default: unchanged.
            step: Training steps of the node's slowest rank. Default: unchanged.

        Raises:
            ReleasedError: If this attempt no longer holds the fleet, or the node was told to stop before the ring was
                formed.
            LedgerUnreachableError: If the ledger was unreachable for longer than a lease lasts: the node then cannot
                know whether its run still holds the fleet. A shorter outage does not disturb the training.
        """
        if self._state in (contract.NODE_JOINED, contract.NODE_READY):
            self._check_stop()
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
            # The write may have failed: the new state must not wait for a whole interval.
            self._refresh.expire_now()
            silent = time.monotonic() - self._heard_at
            if silent > self._work.run.settings.lease_seconds:
                raise
            _log.warning("continuing without the ledger for %.0f s: %s", silent, error)
        else:
            self._heard_at = time.monotonic()

    def wait_for(self, read: Callable[[], str | None], *, state: str | None = None) -> str:
        """
        Poll an item of the ledger that every node of the run waits for, until it is there.

        Args:
            read: Reads it, with `None` while there is none; an outage of the ledger counts as none.
            state: The node's state meanwhile. Default: unchanged.

        Raises:
            ReleasedError: If this attempt no longer holds the fleet.
        """
        poll = Interval(look_soon_seconds(self._work.run.request.gpus))

        def find() -> str | None:
            with suppress(LedgerUnreachableError):
                return read() if poll.elapsed() else None
            return None

        return wait_for(find, tick=partial(self.keep, state=state))

    def idle(self) -> NoReturn:
        """
        Refresh the leader's item until the fleet is released; the instance counts only while its agent runs.

        Raises:
            FinishedError: When the fleet is released.
        """
        try:
            while True:
                self._check_stop()
                self.keep()
                time.sleep(0.5)
        except ReleasedError as reason:
            raise FinishedError(str(reason)) from None

    def stay_until_saving(self, leader: str) -> NoReturn:
        """
        Stay until *leader* saves the model, then record that this node's instance leaves, as it would only cost money.

        The leader's state changes once the state machine has accepted the training's result. Until then the attempt
        may still fail, and a node that stayed can begin the next one at once.

        Raises:
            PartOverError: When the leader saves the model.
            ReleasedError: If the fleet was released, or the leader gave the attempt up.
        """
        look = Interval(LEASE_SECONDS)
        while True:
            self._check_stop()
            self.keep()
            if look.elapsed():
                try:
                    led = self._ledger.node(self._work.lease, leader)
                except LedgerUnreachableError:
                    led = None
                if led is not None and led.state == contract.NODE_FAILED:
                    raise ReleasedError(f"leader {leader} gave the attempt up")
                if led is not None and led.state == contract.NODE_SAVING:
                    if self._work.conduct.has_instance:
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

    def _check_stop(self) -> None:
        if self._work.conduct.stops_at is not None:
            raise ReleasedError("this node was told to stop")

    def _check_lease(self) -> None:
        lease = self._ledger.lease(self._work.node.fleet)
        if lease is None:
            raise ReleasedError(f"nobody holds fleet {self._work.node.fleet} any more")
        if lease != self._work.lease:
            raise ReleasedError(
                f"fleet {self._work.node.fleet} is held by {lease.holder}, not by {self._work.lease.holder}"
            )
        if not self._work.conduct.has_instance:
            # The rule of the dead-man's switch, which this node has not.
            silent = time.time() - lease.expires_at
            if silent > self._work.run.settings.lease_seconds:
                raise ReleasedError(f"the lease of fleet {self._work.node.fleet} expired {silent:.0f} s ago")
        if self._renewal is not None and self.is_asked:
            self._renewal.renew(lease)
