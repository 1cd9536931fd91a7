"""The leader of an elastic ring: nodes come and go, and the training goes on from its last commit."""

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
How long a ring that has its `min_gpus` waits after the last node that came: instances that one call asked for boot
within half a minute of each other, and each reset costs seconds of every GPU.
"""
RESETS_WITHOUT_STEP: Final = 5
"""A ring that was formed anew so often with no training step in between will not train the next time either."""
_MISSED_REFRESHES: Final = 3
"""A node is known to be gone when the ledger, too, has not heard of it for so many intervals."""


class IdleResets:
    """Counts how often in a row the ring was formed anew with no training step in between."""

    def __init__(self) -> None:
        self.count = 0
        self._resets = 0
        self._step = 0

    def see(self, *, resets: int, step: int) -> None:
        """Take note of how often the ring was formed anew so far, and which step it has reached."""
        if resets != self._resets:
            self.count = self.count + 1 if step <= self._step else 0
            self._resets, self._step = resets, max(self._step, step)


class ElasticLeader(Leader):
    """Leads a ring of at least the request's `min_gpus` and at most its `gpus`."""

    _hub: ControlServer
    _member: RingMember
    _driver: RingDriver | None = None

    def _form(self, fetched: Future[Restored | None], *, ring: ExitStack, attempt: ExitStack) -> Mapping[str, Any]:
        node, request = self._work.node, self._work.run.request
        key = secrets.token_bytes(KEY_BYTES)
        # Followers read "over" from it, and must not take its end for the leader's: it stays until all is done.
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
        """Wait until the nodes that are ready have the GPUs that the request asks for, or at least enough."""
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
        """Keep everything that has to be kept."""
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
        """Give other nodes a moment to say what they saw, and choose the reason."""
        wait(SETTLE_SECONDS, tick=self._keep)
        failures = self._server.failures + ([own.failure] if own else [])
        return run_error(failures)

    def _stop_drained_nodes(self, driver: RingDriver) -> None:
        """End the ranks of nodes that leave, once the ring is formed without them."""
        assigned = driver.assigned()
        for member in self._server.members():
            if member.draining and member.ready and member.address not in assigned:
                self._server.stop(member.address, member.generation)

    def _check_resets(self, driver: RingDriver) -> None:
        self._idle_resets.see(resets=driver.resets, step=self._member.step)
        if self._idle_resets.count >= RESETS_WITHOUT_STEP:
            raise RunError(
                contract.ERROR_NODE_FAILED,
                f"The ring was formed anew {RESETS_WITHOUT_STEP} times without a training step in between."
                + self._losses(),
            )

    def _check_the_end(self, driver: RingDriver) -> None:
        """
        Find out how the driver's work ended.

        Raises:
            RunError: If not every rank of the last ring ended well.
        """
        if driver.trouble:
            raise RunError(contract.ERROR_NODE_FAILED, f"{driver.trouble.rstrip('.')}.{self._losses()}")
        if driver.resets >= RESET_LIMIT:
            raise RunError(contract.ERROR_NODE_FAILED, f"The ring was formed anew {RESET_LIMIT} times.{self._losses()}")
        # What the nodes themselves noticed is on its way.
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
        """Give the exit code of each rank of the last ring; `None` for one that was not heard to end."""
        exits: dict[int, int | None] = {}
        for address in driver.assigned():
            member = self._server.member(address)
            for place, rank in enumerate(driver.ranks_of(address)):
                exits[rank] = None if member is None else member.exits.get(place)
        return exits

    def _unfinished(self, driver: RingDriver) -> list[int]:
        return sorted(rank for rank, code in self._exits(driver).items() if code != 0)

    def _losses(self) -> str:
        """Say which nodes were lost, the last ones only: there may have been many."""
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
        """Describe the ring's life, for the receipt."""
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
