"""Horovod's elastic driver, with the control server's nodes instead of a discovery script and ssh."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.elastic.discovery import DiscoveredHosts, HostDiscovery
from horovod.runner.elastic.driver import ElasticDriver
from horovod.runner.elastic.registration import FAILURE
from horovod.runner.elastic.worker import HostUpdateResult

from horovod_node.elastic.control_server import ControlServer, Member
from horovod_node.local_ranks.rank_assignment import ring_environment
from horovod_node.ring.rendezvous import Rendezvous

_log = logging.getLogger(__name__)

RESET_LIMIT: Final = 100
"""
Ring resets allowed in one attempt. A day on Spot has a handful; a hundred point to a fault that a restart, with other
nodes and from a checkpoint, is more likely to fix. Horovod's default is no limit.
"""
COOLDOWN_SECONDS: Final = (5, 300)
"""
How long a node whose rank died is blacklisted: 10 to 15 s at first, doubled each time, at most 300 s. By default
Horovod blacklists it for the whole job, although the next rank on the same GPU usually works and an idle GPU costs
money.
"""
_KILLED: Final = 143
"""Exit code of a rank that the driver itself stopped (128 + SIGTERM)."""
_LOOK_SECONDS: Final = 0.2
_REMIND_SECONDS: Final = 1.0


class RingDriver(ElasticDriver):  # type: ignore[misc]  # Horovod publishes no types
    """
    Decides which nodes are in the ring, and resets it whenever that changes.

    It differs from Horovod's own driver (0.28.1):

    - The leader's node is the first host. So rank 0 runs on it, and the state that the others receive is never a new
      node's.
    - Half of a ring or less never continues while the rest may live: see `wait_for_available_slots`.
    - It starts new ranks on a node that failed and rejoined for the next ring; Horovod's driver assumes that the old
      ones still run.
    - Rank 0 is notified of changes through its own agent, and repeatedly until it has acted. A reset drops unread
      notifications, so one that arrives during a reset would otherwise be lost.

    Args:
        control: The control server, to which the nodes are connected.
        rendezvous: The ring's rendezvous server.
        leader: Address of the leader.
        interface: Network interface of the ring.
        gpus: Largest number of ranks.
        min_gpus: Smallest number of ranks.
        elastic_seconds: How long the ring waits for `min_gpus`.
        notify: Tells rank 0 that the ring will change; takes Horovod's `HostUpdateResult`.
        is_gone: Takes a node's address; returns whether the node is known to be gone, and not only unreachable.
    """

    def __init__(
        self,
        control: ControlServer,
        rendezvous: RingRendezvous,
        *,
        leader: str,
        interface: str,
        gpus: int,
        min_gpus: int,
        elastic_seconds: float,
        notify: Callable[[int], None],
        is_gone: Callable[[str], bool],
    ) -> None:
        self._control = control
        self._leader = leader
        self._interface = interface
        self._gpus = gpus
        self._elastic_seconds = elastic_seconds
        self._tell_rank_0 = notify
        self._is_gone = is_gone
        self._reminded = 0.0
        self._waiting_since: float | None = None
        self._broken_ring = 0
        self.trouble = ""
        """Why the driver gave up, if it did."""
        self.sizes: list[int] = []
        """Ranks of each ring that was formed."""
        rendezvous.serve(self)
        super().__init__(
            rendezvous,
            _ConnectedNodes(control, leader=leader, min_gpus=min_gpus),
            min_gpus,
            gpus,
            timeout=int(elastic_seconds),
            reset_limit=RESET_LIMIT,
            cooldown_range=COOLDOWN_SECONDS,
        )

    @property
    def resets(self) -> int:
        """How often the ring was reset."""
        return max(0, len(self.sizes) - 1)

    @property
    def is_waiting(self) -> bool:
        """Whether the ring waits for nodes."""
        return self._waiting_since is not None

    def begin(self, gpus: int) -> None:
        """Form the first ring, of at least *gpus* ranks; this waits for them in a new thread."""
        threading.Thread(target=self._begin, args=(gpus,), name="ring", daemon=True).start()

    def assigned(self) -> dict[str, int]:
        """Return the nodes of the current ring: address to number of ranks."""
        return {host: len(slots) for host, slots in dict(self.host_assignments).items()}

    def ranks_of(self, address: str) -> list[int]:
        """Return a node's ranks in the current ring."""
        return [slot.rank for slot in dict(self.host_assignments).get(address, ())]

    def rank_and_size(self, key: str) -> bytes | None:
        """Answer the rank named by *key*, `<host>:<local rank>`, with its slot in the next ring, once that is known."""
        host, _, place = key.partition(":")
        if not place.isdecimal():
            return None
        if self.has_rank_assignment(host, int(place)):
            # Returns once every rank of the old ring has asked or has ended. Only a rank that has a slot may count.
            self.record_ready(host, int(place))
        slot = self.get_slot_info(host, int(place))
        return str(slot.to_response_string()).encode("ascii")

    def remind(self) -> None:
        """Notify rank 0 again of a change on which it has not acted."""
        now = time.monotonic()
        if self.finished() or self.is_waiting or now - self._reminded < _REMIND_SECONDS:
            return
        self._reminded = now
        current = self._host_manager.current_hosts
        # A copy: other threads remove hosts from it.
        hosts = DiscoveredHosts(current.host_slots, list(current.host_assignment_order))
        if hosts.count_available_slots() < self._min_num_proc:
            return
        there = self.assigned()
        wanted = {host: len(slots) for host, slots in self._get_host_assignments(hosts)[0].items()}
        if not there or there == wanted:
            return
        result = HostUpdateResult.no_update
        if any(there[host] > wanted.get(host, 0) for host in there):
            result |= HostUpdateResult.removed
        if any(wanted[host] > there.get(host, 0) for host in wanted):
            result |= HostUpdateResult.added
        self._tell_rank_0(int(result))

    def wait_for_available_slots(self, min_num_proc: int, min_hosts: int = 1) -> Any:  # noqa: ARG002 - Horovod's signature
        """
        Wait for enough GPUs, and until no other part of the last ring can still be training.

        A ring that is to begin with more than `min_gpus` does not wait for nodes that were lost since they were
        counted.

        If half of the last ring or less is left, it continues only when every missing node is known to be gone: the
        node has left in order, has closed its connection, or has not refreshed its ledger item either. So when a
        network failure splits a ring, the smaller part never trains alone, and the part without the leader never trains
        at all.

        Raises:
            TimeoutError: After `elastic_seconds`; `trouble` says what was missing.
        """
        give_up_at = time.monotonic() + self._elastic_seconds
        self._waiting_since = time.monotonic()
        try:
            while True:
                hosts = self._host_manager.current_hosts
                slots = hosts.count_available_slots()
                unsure = self._out_of_reach(hosts.available_hosts)
                there = sum(member.gpus for member in _candidates(self._control, min_gpus=self._min_num_proc))
                needed = min(min_num_proc, max(self._min_num_proc, there))
                if slots >= needed and not unsure and self._leader in hosts.available_hosts:
                    return hosts
                if self._shutdown.is_set():
                    raise RuntimeError("the ring was stopped")
                if time.monotonic() > give_up_at:
                    self.trouble = f"The ring had {slots} GPUs and needs {needed}"
                    if unsure:
                        self.trouble = f"Most of the ring is out of reach and may train on: {', '.join(unsure)}"
                    raise TimeoutError(self.trouble)
                time.sleep(_LOOK_SECONDS)
        finally:
            self._waiting_since = None

    def _out_of_reach(self, available: set[str]) -> list[str]:
        """List the missing nodes whose ranks may still train; a node that is connected has stopped its ranks."""
        before = self.assigned()
        left = sum(slots for host, slots in before.items() if host in available)
        if 2 * left > sum(before.values()):
            return []
        absent = [host for host in before if host not in available and self._control.member(host) is None]
        return [host for host in absent if not self._is_gone(host)]

    def _update_host_assignments(self, current_hosts: DiscoveredHosts) -> list[SlotInfo]:
        """Decide on the next ring, and return the slots whose ranks must be started."""
        failed = {host for host, _ in self._worker_registry.get(FAILURE)}
        pending: list[SlotInfo] = super()._update_host_assignments(current_hosts)
        again = [slot for host in failed for slot in self._host_assignments.get(host, ()) if slot not in pending]
        return pending + again

    def get_worker_client(self, slot_info: SlotInfo) -> Any:  # noqa: ARG002 - Horovod's signature
        """Return the client through which Horovod reports changed hosts."""
        return _Notifier(self._tell_rank_0)

    def _begin(self, gpus: int) -> None:
        try:
            self.start(gpus, self._run_rank)
        except Exception as error:
            self.trouble = self.trouble or f"The ring could not be formed: {error}"
            self.stop(error_message=self.trouble)

    def _run_rank(self, slot: SlotInfo, events: Sequence[threading.Event | None]) -> tuple[int, float]:
        """Start one rank and wait for its end; Horovod's driver calls this in a thread for each rank."""
        environment: Mapping[str, str] = ring_environment(
            slot, leader=self._leader, interface=self._interface, gpus=self._gpus
        )
        generation = self._control.start(slot.hostname, slot.local_rank, environment)
        if not generation:
            return 1, time.time()
        while (code := self._control.exit_code(slot.hostname, generation, slot.local_rank)) is None:
            if any(event is not None and event.is_set() for event in events):
                if not self.finished():
                    # Another rank of the same node has died: the node replaces all its ranks.
                    self._control.stop(slot.hostname, generation)
                return _KILLED, time.time()
            self._control.wait(_LOOK_SECONDS)
        if code:
            self._break_ring(slot.hostname)
        return code, time.time()

    def _break_ring(self, address: str) -> None:
        """
        Close the broken ring's connections on every rank, instead of waiting for Gloo's timeout.

        Ranks that exchange data with the lost one usually notice by themselves. The others wait for ranks that have
        noticed but keep their connections until the next ring; without this they would wait 30 s or more.
        """
        assigned = self.assigned()
        if address in assigned and self._broken_ring != len(self.sizes):
            self._broken_ring = len(self.sizes)
            self._control.tell_all({"sever": sorted(assigned)})


class RingRendezvous:
    """
    The rendezvous of an elastic ring, as the driver uses it.

    Args:
        address: Address of the leader.
        port: Port to listen on.

    Raises:
        OSError: If the port is taken.
    """

    def __init__(self, address: str, port: int) -> None:
        self._place = (address, port)
        self._driver: RingDriver | None = None
        self._server: Rendezvous | None = None

    def serve(self, driver: RingDriver) -> None:
        """Serve the ranks of *driver*."""
        self._driver = driver
        self._server = Rendezvous(*self._place, answers={"rank_and_size": driver.rank_and_size})

    def init(self, slots: Sequence[SlotInfo]) -> None:
        """Serve the ring of these *slots* from now on."""
        if self._driver is not None and self._server is not None:
            self._driver.sizes.append(len(slots))
            _log.info(
                "ring %d: %s", len(self._driver.sizes), ", ".join(f"{slot.rank} on {slot.hostname}" for slot in slots)
            )
            self._server.init(slots)

    def stop(self) -> None:
        """Stop serving."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


def _candidates(control: ControlServer, *, min_gpus: int) -> list[Member]:
    """
    List the nodes that can be in a ring.

    Nodes that EC2 will interrupt are excluded, unless too few would be left: then they train as long as they live.
    """
    ready = [member for member in control.members() if member.ready]
    staying = [member for member in ready if not member.draining]
    return staying if sum(member.gpus for member in staying) >= min_gpus else ready


class _ConnectedNodes(HostDiscovery):  # type: ignore[misc]  # Horovod publishes no types
    """Host discovery from the control server, in place of Horovod's discovery script."""

    def __init__(self, control: ControlServer, *, leader: str, min_gpus: int) -> None:
        super().__init__()
        self._control = control
        self._leader = leader
        self._min_gpus = min_gpus
        self._first = True

    def find_available_hosts_and_slots(self) -> dict[str, int]:
        hosts = {member.address: member.gpus for member in _candidates(self._control, min_gpus=self._min_gpus)}
        if self._first:
            # Horovod ranks hosts in the order of their discovery; hosts discovered together have no defined order.
            self._first = False
            return {host: slots for host, slots in hosts.items() if host == self._leader}
        return hosts


class _Notifier:
    """Notifies rank 0, in place of Horovod's client of its notification service."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell = tell

    def notify_hosts_updated(self, timestamp: int, result: HostUpdateResult) -> None:  # noqa: ARG002
        self._tell(int(result))
