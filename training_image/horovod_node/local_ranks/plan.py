"""The plan of a static ring: its nodes, and the ranks of each of them."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from horovod.runner.common.util.hosts import SlotInfo, get_host_assignments, parse_hosts

from horovod_node import contract
from horovod_node.ledger.ledger import NodeItem
from horovod_node.node.errors import RunError

_GLOO_TIMEOUTS = ((64, 30), (128, 120), (256, 300))
_LONGEST_GLOO_TIMEOUT = 600


@dataclass(frozen=True, kw_only=True)
class RingHost:
    """
    One node's part of the ring.

    Args:
        node: The node's name.
        address: The node's IPv4 address, which is its host name in Horovod.
        slots: Number of ranks on the node.
    """

    node: str
    address: str
    slots: int


@dataclass(frozen=True, kw_only=True)
class RingPlan:
    """
    The plan by which all nodes start their ranks.

    Args:
        hosts: Nodes in rank order; the first is the leader and has rank 0.
        port: Port of Horovod's rendezvous server on the leader.
        gloo_timeout_seconds: How long a rank waits for another one.
    """

    hosts: tuple[RingHost, ...]
    port: int
    gloo_timeout_seconds: int

    @property
    def size(self) -> int:
        """Number of ranks of the whole ring."""
        return sum(host.slots for host in self.hosts)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The nodes' addresses in rank order."""
        return tuple(host.address for host in self.hosts)

    def host(self, node: str) -> RingHost | None:
        """Return *node*'s part of the ring; `None` for a spare node."""
        return next((host for host in self.hosts if host.node == node), None)

    def slots(self) -> Sequence[SlotInfo]:
        """Assign ranks to nodes as Horovod does; every node computes the same assignment."""
        hosts = parse_hosts(",".join(f"{host.address}:{host.slots}" for host in self.hosts))
        slots: Sequence[SlotInfo] = get_host_assignments(hosts, self.size, self.size)
        return slots

    def ranks_of(self, node: str) -> range:
        """Return the ranks that run on *node*."""
        first = 0
        for host in self.hosts:
            if host.node == node:
                return range(first, first + host.slots)
            first += host.slots
        return range(0)

    def to_text(self) -> str:
        """
        Write the plan for the ledger, which every node reads at once.

        Names and addresses of nodes are alike, so the plan compresses well: to read that of 700 nodes takes 4 of
        DynamoDB's read units, instead of 13 as JSON.
        """
        hosts = [(host.node, host.address, host.slots) for host in self.hosts]
        plain = json.dumps([hosts, self.port, self.gloo_timeout_seconds])
        return base64.b64encode(zlib.compress(plain.encode())).decode()

    @classmethod
    def from_text(cls, text: str) -> RingPlan:
        """Read the plan that the leader wrote."""
        hosts, port, gloo_timeout_seconds = json.loads(zlib.decompress(base64.b64decode(text)))
        return cls(
            hosts=tuple(RingHost(node=node, address=address, slots=slots) for node, address, slots in hosts),
            port=port,
            gloo_timeout_seconds=gloo_timeout_seconds,
        )


def plan_ring(nodes: Iterable[NodeItem], *, leader: str, gpus: int, port: int) -> RingPlan | None:
    """
    Choose nodes for exactly *gpus* ranks; `None` while the ready nodes have fewer GPUs.

    The leader comes first. The others follow by size, then zone, then name. The ring thus has few nodes, nodes of a
    zone are neighbours in it, and the order of *nodes* does not matter. The last node may run fewer ranks than it has
    GPUs.

    Args:
        nodes: The attempt's nodes; those that are not ready are ignored.
        leader: Name of the leader's node.
        gpus: Number of ranks of the ring.
        port: Port of Horovod's rendezvous server on the leader.

    Raises:
        RunError: If two ready nodes have the same address, which Horovod could not tell apart.
    """
    ready = sorted(
        (node for node in nodes if node.state == contract.NODE_READY),
        key=lambda node: (node.id != leader, -node.gpus, node.zone, node.id),
    )
    if not ready or ready[0].id != leader or sum(node.gpus for node in ready) < gpus:
        return None
    hosts: list[RingHost] = []
    missing = gpus
    for node in ready:
        if missing == 0:
            break
        twin = next((host for host in hosts if host.address == node.address), None)
        if twin is not None:
            raise RunError(
                contract.ERROR_NODE_FAILED, f"Nodes {twin.node} and {node.id} both have the address {node.address}."
            )
        slots = min(node.gpus, missing)
        hosts.append(RingHost(node=node.id, address=node.address, slots=slots))
        missing -= slots
    return RingPlan(hosts=tuple(hosts), port=port, gloo_timeout_seconds=gloo_timeout_seconds(gpus))


def gloo_timeout_seconds(ranks: int) -> int:
    """
    Return the seconds that a rank may wait for another one.

    Small rings keep Gloo's default of 30 s, which also bounds the time to detect a lost host. Larger rings need longer
    to form: ranks find each other by some six requests per pair of ranks. On two cores, which also ran the leader, 128
    ranks took 32 to 39 s (see docs/benchmarks.md).
    """
    return next((seconds for below, seconds in _GLOO_TIMEOUTS if ranks < below), _LONGEST_GLOO_TIMEOUT)
