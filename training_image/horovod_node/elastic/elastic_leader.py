"""The leader of an elastic ring: nodes join and leave, and the training continues from its last commit."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, closing
from typing import Any, Final

from horovod_node import contract
from horovod_node.attempt.membership import refresh_seconds
from horovod_node.checkpoints.restore import Restored
from horovod_node.elastic.control_server import ControlServer, Member
from horovod_node.elastic.driver import RESET_LIMIT, RingDriver, RingRendezvous
from horovod_node.elastic.member import ChannelPlace, RingMember
from horovod_node.elastic.signed_channel import KEY_BYTES
from horovod_node.node.errors import RunError
from horovod_node.node.failure import NodeFailedError, run_error
from horovod_node.node.waiting import TURN_SECONDS, Interval, wait, wait_until
from horovod_node.ring.base_leader import LOOK_SECONDS, LOOK_SOON_SECONDS, Leader, ring_output
from horovod_node.ring.diagnosis import SETTLE_SECONDS
from horovod_node.ring.step_timing import slowest_rank

LATECOMERS_SECONDS: Final = 30.0
"""
How long a ring that has its `min_gpus` waits for more nodes after the last one came. Instances of one launch boot
within half a minute of each other, and each reset costs every GPU some seconds.
"""
RESETS_WITHOUT_STEP: Final = 5
"""Consecutive ring resets without a training step after which the attempt fails."""
_MISSED_REFRESHES: Final = 3
"""Refresh intervals without a new ledger item after which an unreachable node counts as gone."""


class IdleResets:
    """Counts consecutive ring resets without a training step in between."""

    def __init__(self) -> None:
        self.count = 0
        self._resets = 0
        self._step = 0

    def see(self, *, resets: int, step: int) -> None:
        """Update the count from the ring's resets so far and the step that it has reached."""
        if resets != self._resets:
            self.count = self.count + 1 if step <= self._step else 0
            self._resets, self._step = resets, max(self._step, step)


class ElasticLeader(Leader):
    """Leads a ring of at least the request's `min_gpus` and at most its `gpus`."""

    _server: ControlServer
    _member: RingMember
    _driver: RingDriver | None = None

    def _form(self, fetched: Future[Restored | None], *, ring: ExitStack, attempt: ExitStack) -> Mapping[str, Any]:
        node, request = self._work.node, self._work.run.request
        key = secrets.token_bytes(KEY_BYTES)
        # It stays open until the attempt is over: followers read "over" from it, and take its end for the leader's.
        self._server = attempt.enter_context(closing(ControlServer(node.address, contract.CHANNEL_PORT, key=key)))
        place = ChannelPlace(leader=node.id, address=node.address, port=contract.CHANNEL_PORT, key=key.hex())
        self._work.ledger.put_channel(self._work.lease, place.to_json(), remove_at=self._work.run.remove_at)
        self._member = ring.enter_context(closing(RingMember(self._work, place, fetched=fetched, leads=True)))
        self._looks = Interval(LOOK_SOON_SECONDS)
        self._idle_resets = IdleResets()
        members = self._wait_for_nodes()
        self._driver = RingDriver(
            self._server,
            RingRendezvous(node.address, contract.RENDEZVOUS_PORT),
            leader=node.address,
            interface=node.interface,
            gpus=request.gpus,
            min_gpus=request.min_gpus,
            elastic_seconds=self._work.run.settings.elastic_seconds,
            notify=self._member.notify,
            is_gone=self._is_gone,
        )
        ring.callback(self._end_driver)
        gpus = min(request.gpus, sum(member.gpus for member in members))
        self._driver.begin(gpus)
        known = {item.id: item for item in self._nodes.items}
        ordered = sorted(members, key=lambda member: member.node != node.id)
        return ring_output((known[member.node] for member in ordered), gpus=gpus)

    def _wait_for_nodes(self) -> list[Member]:
        """Wait until the ready nodes have the request's `gpus`, or have `min_gpus` and no more nodes come."""
        request = self._work.run.request
        patience = min(LATECOMERS_SECONDS, self._work.run.settings.heartbeat_seconds / 2)
        seen: list[tuple[str, bool]] = []
        changed_at = time.monotonic()
        while True:
            self._turn()
            there = self._server.members()
            ready = [member for member in there if member.ready and not member.draining]
            state = sorted((member.address, member.ready) for member in there)
            if state != seen:
                seen, changed_at = state, time.monotonic()
            known = {item.id for item in self._nodes.items}
            gpus = sum(member.gpus for member in ready if member.node in known)
            leads = any(member.node == self._work.node.id and member.node in known for member in ready)
            settled = len(ready) == len(there) and time.monotonic() - changed_at > patience
            if leads and (gpus >= request.gpus or (gpus >= request.min_gpus and settled)):
                return [member for member in ready if member.node in known]
            time.sleep(TURN_SECONDS)

    def _train(self) -> Mapping[str, Any]:
        driver = self._driver
        assert driver is not None
        self._looks.seconds = LOOK_SECONDS
        while not driver.finished():
            self._turn()
            driver.remind()
            self._stop_drained_nodes(driver)
            self._check_resets(driver)
            if self._member.training is not None:
                self._tell(self._member.training, ranks=sum(driver.assigned().values()), resets=driver.resets)
                self._stop_at_ceiling(self._member.training)
                self._hand_over(self._member.training, [self._work.node.id])
            time.sleep(TURN_SECONDS)
        self._check_the_end(driver)
        self._server.tell_all({"over": True})
        return self._accounting.answer(ranks=driver.sizes[-1], steps=self._member.step, ring=self._describe(driver))

    def _turn(self) -> None:
        """Refresh the membership, poll the nodes' items, and take part in the ring as a member."""
        self._keep(state=self._member.state, step=self._member.step)
        if self._looks.elapsed():
            self._nodes.read()
        try:
            self._member.turn()
        except NodeFailedError as failure:
            raise self._explain(failure) from failure
        if self._server.failures:
            raise self._explain()

    def _explain(self, own: NodeFailedError | None = None) -> RunError:
        """Wait a moment for the other nodes' failures, and return the one that explains the rest."""
        wait(SETTLE_SECONDS, tick=self._keep)
        failures = self._server.failures + ([own.failure] if own else [])
        return run_error(failures)

    def _stop_drained_nodes(self, driver: RingDriver) -> None:
        """Stop the ranks of draining nodes once the ring has been reset without them."""
        assigned = driver.assigned()
        for member in self._server.members():
            if member.draining and member.ready and member.address not in assigned:
                self._server.stop(member.address, member.generation)

    def _check_resets(self, driver: RingDriver) -> None:
        self._idle_resets.see(resets=driver.resets, step=self._member.step)
        if self._idle_resets.count >= RESETS_WITHOUT_STEP:
            raise RunError(
                contract.ERROR_NODE_FAILED,
                f"The ring was reset {RESETS_WITHOUT_STEP} times without a training step in between." + self._losses(),
            )

    def _check_the_end(self, driver: RingDriver) -> None:
        """
        Check that the training succeeded.

        Raises:
            RunError: If a rank of the last ring did not end with exit code 0.
        """
        if driver.trouble:
            raise RunError(contract.ERROR_NODE_FAILED, f"{driver.trouble.rstrip('.')}.{self._losses()}")
        if driver.resets >= RESET_LIMIT:
            raise RunError(contract.ERROR_NODE_FAILED, f"The ring was reset {RESET_LIMIT} times.{self._losses()}")
        # Messages of the nodes may still be on their way.
        wait_until(lambda: not self._unfinished(driver), tick=self._turn, seconds=SETTLE_SECONDS)
        unfinished = self._unfinished(driver)
        if not unfinished:
            return
        if any(code == 0 for code in self._exits(driver).values()):
            raise RunError(
                contract.ERROR_TRAINING_FAILED,
                f"Ranks {', '.join(map(str, unfinished))} had not ended when others ended with exit code 0. "
                "All ranks must take the same number of steps.",
            )
        raise RunError(contract.ERROR_NODE_FAILED, f"No rank of the ring was left.{self._losses()}")

    def _exits(self, driver: RingDriver) -> dict[int, int | None]:
        """Return the exit code of each rank of the last ring; `None` if no exit was reported."""
        exits: dict[int, int | None] = {}
        for address in driver.assigned():
            member = self._server.member(address)
            for place, rank in enumerate(driver.ranks_of(address)):
                exits[rank] = None if member is None else member.exits.get(place)
        return exits

    def _unfinished(self, driver: RingDriver) -> list[int]:
        return sorted(rank for rank, code in self._exits(driver).items() if code != 0)

    def _losses(self) -> str:
        """Return sentences on the last five nodes that were lost."""
        lost = [departure for departure in self._server.departures if not departure.in_order][-5:]
        return "".join(f" Node {each.node} ({each.address}) was lost: {each.why}." for each in lost)

    def _is_gone(self, address: str) -> bool:
        """Whether a node that is not connected is known to be gone; called from the driver's thread."""
        departure = next((each for each in reversed(self._server.departures) if each.address == address), None)
        if departure is None or departure.in_order or not departure.silent:
            return True
        quiet = self._nodes.quiet_seconds(departure.node)
        return quiet > _MISSED_REFRESHES * refresh_seconds(self._work.run.settings)

    def _end_driver(self) -> None:
        if self._driver is not None and not self._driver.finished():
            self._driver.stop()

    def _describe(self, driver: RingDriver) -> dict[str, Any]:
        """Describe the ring for the receipt."""
        left = {each.node for each in self._server.departures if each.in_order}
        left |= {member.node for member in self._server.members() if member.left}
        return {
            "elastic": True,
            "resets": driver.resets,
            "smallest": min(driver.sizes),
            "largest": max(driver.sizes),
            "interruptions": [
                {"node": node, "kind": kind, "at": int(at), "left_in_order": node in left}
                for node, kind, at in self._server.interruptions
            ],
            **slowest_rank([node for node in self._nodes.items if node.address in driver.assigned()]),
        }
