"""The leader's end of all channels of an elastic ring: the connected nodes, their reports, and commands to them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from horovod_node.elastic.signed_channel import BEAT_SECONDS, Channel, ChannelClosedError, Message
from horovod_node.node.failure import Failure

_log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
"""All nodes of a fleet may connect at once."""
_STRANGERS: Final = 1024
"""Open connections whose first message has not arrived: each occupies a thread, for some seconds at most."""
_STRANGERS_OF_AN_ADDRESS: Final = 16
"""The same from one address: a node has one connection, and may reconnect before the loss of the old one is noticed."""


@dataclass(kw_only=True)
class Member:
    """
    A node that is connected.

    Args:
        node: Its name.
        address: Its address, which is also its host name in Horovod.
        gpus: Ranks that fit on it.
        channel: The connection.
        generation: Number of the node's current set of ranks, from 1; 0 before the first.
        ready: Whether all ranks of this generation wait for a ring, or are in one.
        draining: Why it will leave, one of `contract.INTERRUPTIONS`; empty if it will not.
        left: Whether it has left the ring in order.
        exits: Exit codes of this generation's ranks that have ended, by local rank.
        step: Training steps of its slowest rank.
    """

    node: str
    address: str
    gpus: int
    channel: Channel
    generation: int = 0
    ready: bool = False
    draining: str = ""
    left: bool = False
    exits: dict[int, int] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Departure:
    """
    A node whose connection has ended.

    Args:
        node: Its name.
        address: Its address.
        why: The reason, for people.
        silent: Whether its messages stopped while it may still run, cut off from the leader.
        in_order: Whether it had left the ring before.
        at: When the connection ended, epoch seconds.
    """

    node: str
    address: str
    why: str
    silent: bool
    in_order: bool
    at: float


class ControlServer:
    """
    Accepts and serves the nodes' connections, in its own threads, until closed.

    Args:
        address: Address to listen on.
        port: Port to listen on.
        key: The ring's key.

    Raises:
        OSError: If the port is taken.
    """

    def __init__(self, address: str, port: int, *, key: bytes) -> None:
        self._key = key
        self._lock = threading.Condition()
        self._members: dict[str, Member] = {}
        self._departures: list[Departure] = []
        self._failures: list[Failure] = []
        self._interruptions: list[tuple[str, str, float]] = []
        self._strangers: Counter[str] = Counter()
        self._closed = threading.Event()
        self._listening = socket.create_server((address, port), backlog=_BACKLOG)
        for name, work in (("control", self._accept), ("control-beat", self._beat)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            # No node can join from now on.
            self._closed.set()
        # close() alone would keep the port open until the next connection, because a thread waits in accept().
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for member in self.members():
            member.channel.close()

    def members(self) -> list[Member]:
        """List the connected nodes in the order in which they connected."""
        with self._lock:
            return list(self._members.values())

    def member(self, address: str) -> Member | None:
        """Find a node by its address."""
        with self._lock:
            return self._members.get(address)

    @property
    def departures(self) -> list[Departure]:
        """Every connection that has ended, in order, including those of nodes that came back."""
        with self._lock:
            return list(self._departures)

    @property
    def failures(self) -> list[Failure]:
        """Failures, reported by nodes, that would recur in another ring."""
        with self._lock:
            return list(self._failures)

    @property
    def interruptions(self) -> list[tuple[str, str, float]]:
        """Node, kind and time of each interruption notice."""
        with self._lock:
            return list(self._interruptions)

    def tell(self, address: str, message: Message) -> None:
        """Send *message* to a node; a lost connection is ignored here, because its reader reports it."""
        member = self.member(address)
        if member is not None:
            with contextlib.suppress(ChannelClosedError):
                member.channel.send(message)

    def tell_all(self, message: Message) -> None:
        """Send *message* to every node."""
        for member in self.members():
            with contextlib.suppress(ChannelClosedError):
                member.channel.send(message)

    def start(self, address: str, place: int, environment: Mapping[str, str]) -> int:
        """Start one rank of a node in the ring; return the node's generation, or 0 if it is gone or not ready."""
        with self._lock:
            member = self._members.get(address)
            if member is None or not member.ready:
                return 0
            generation = member.generation
        self.tell(address, {"start": [generation, place, dict(environment)]})
        return generation

    def stop(self, address: str, generation: int) -> None:
        """Stop a node's ranks if they are of this generation; the node then offers new ones, unless it drains."""
        with self._lock:
            member = self._members.get(address)
            if member is None or not member.ready or member.generation != generation:
                return
            member.ready = False
        self.tell(address, {"stop": generation})

    def exit_code(self, address: str, generation: int, place: int) -> int | None:
        """
        Return the exit code of a rank: `None` while it runs, 1 if its node or its generation is gone.

        A node that is no longer ready has stopped all ranks of the generation, and does not report each exit code. A
        ring that waited for them would wait until the node has started new ranks, with all their imports.
        """
        with self._lock:
            member = self._members.get(address)
            if member is None or member.generation != generation:
                return 1
            return member.exits.get(place, None if member.ready else 1)

    def wait(self, seconds: float) -> None:
        """Wait for a change, for at most *seconds*."""
        with self._lock:
            self._lock.wait(seconds)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, (address, *_) = self._listening.accept()
            except OSError as error:
                # For example too many open files: the loop continues, so that nodes can connect later.
                if not self._closed.wait(BEAT_SECONDS):
                    _log.warning("could not accept a connection: %s", error)
                continue
            with self._lock:
                full = self._strangers.total() >= _STRANGERS or self._strangers[address] >= _STRANGERS_OF_AN_ADDRESS
                if not full:
                    self._strangers[address] += 1
            if full:  # a node tries again
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, address), name="control-member", daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            self.tell_all({})

    def _serve(self, connection: socket.socket, address: str) -> None:
        member: Member | None = None
        try:
            try:
                channel = Channel(connection, key=self._key, leads=True)
                greeting = channel.receive()
            finally:
                self._know(address)
            member = self._join(channel, greeting)
            while True:
                self._take(member, channel.receive())
        except ChannelClosedError as reason:
            if member is not None:
                self._disconnect(member, str(reason), silent=reason.silent)
        except Exception as error:
            # The signature was right, but the message could not be read.
            _log.warning("unreadable message from a node, perhaps of another version: %r", error)
            connection.close()
            if member is not None:
                self._disconnect(member, f"its message could not be read: {error!r}", silent=False)

    def _know(self, address: str) -> None:
        """Stop counting a connection as a stranger's: its signature was right, or it has ended."""
        with self._lock:
            self._strangers[address] -= 1
            if not self._strangers[address]:
                del self._strangers[address]

    def _join(self, channel: Channel, greeting: Message) -> Member:
        hello: dict[str, Any] = greeting["hello"]
        member = Member(node=hello["node"], address=hello["address"], gpus=int(hello["gpus"]), channel=channel)
        with self._lock:
            before = self._members.get(member.address)
            if self._closed.is_set():
                channel.close()
                raise ChannelClosedError("the control server is closed")
            if before is not None and before.node != member.node:
                channel.close()
                raise ChannelClosedError(f"nodes {before.node} and {member.node} both have {member.address}")
            if before is not None:
                # The node noticed the end of its old connection before the leader did.
                self._disconnect(before, "it came back", silent=False)
            self._members[member.address] = member
            self._lock.notify_all()
        _log.info("%s (%s) is connected", member.node, member.address)
        return member

    def _take(self, member: Member, message: Message) -> None:
        with self._lock:
            if "step" in message:
                member.step = int(message["step"])
            if "ready" in message:
                member.generation, member.ready, member.exits = int(message["ready"]), True, {}
            if "exit" in message:
                generation, place, code = message["exit"]
                if generation == member.generation:
                    member.exits[place] = code
            if "broken" in message and message["broken"] == member.generation:
                member.ready = False
            if "failure" in message:
                self._failures.append(Failure.from_json(message["failure"]))
            if "draining" in message:
                member.draining = message["draining"]
                self._interruptions.append((member.node, member.draining, time.time()))
            if "left" in message:
                member.left, member.ready = True, False
            if message:
                self._lock.notify_all()

    def _disconnect(self, member: Member, why: str, *, silent: bool) -> None:
        member.channel.close()
        with self._lock:
            if self._members.get(member.address) is not member or self._closed.is_set():
                return
            del self._members[member.address]
            departure = Departure(
                node=member.node,
                address=member.address,
                why=why,
                silent=silent,
                in_order=member.left,
                at=time.time(),
            )
            self._departures.append(departure)
            self._lock.notify_all()
        _log.info("%s (%s) is disconnected: %s", member.node, member.address, why)
