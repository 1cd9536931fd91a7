"""Loopback for tests: networks that no other test uses, and connections whose bytes the test carries itself."""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from horovod_node.elastic.signed_channel import Channel
from support.waiting import SECONDS

_FIRST, _LAST = 1, 126
"""Second numbers of the networks; the local cloud's instances have larger ones."""
_nets = itertools.product(range(_FIRST, _LAST + 1), range(256))
_reserved: Final[list[socket.socket]] = []
NONCE_BYTES = 16
HEAD_BYTES = 4
MAC_BYTES = 32


def new_addresses() -> Callable[[int], str]:
    """
    Give a source of addresses 127.x.y.N, all of one network.

    Ports are the product's own and fixed, so two tests with one network would meet. A name that the kernel gives to one
    process at a time reserves the network for the rest of this one's life; process ids, which other workers of pytest
    and other sessions have too, do not tell networks apart.
    """
    for second, third in _nets:
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0cdk-horovod-tests-127.{second}.{third}")
        except OSError:
            mark.close()
            continue
        _reserved.append(mark)
        return lambda number: f"127.{second}.{third}.{number}"
    raise RuntimeError("no loopback network is left for this test")


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Give both ends of a connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname()[:2])
        other, _ = server.accept()
    other.settimeout(SECONDS)
    return one, other


def read(connection: socket.socket, count: int) -> bytes:
    """Read exactly so many bytes."""
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "the connection was closed"
        data += part
    return data


def read_frame(connection: socket.socket) -> bytes:
    """Read one message as it is on the wire: length, signature, body."""
    head = read(connection, HEAD_BYTES)
    return head + read(connection, MAC_BYTES + struct.unpack("!I", head)[0])


class Wire:
    """
    A leader's and a member's channel, with the test as the network between them.

    Args:
        key: The leader's.
        members_key: The member's. Default: the same.
    """

    def __init__(self, key: bytes, *, members_key: bytes | None = None) -> None:
        self._open = ExitStack()
        leaders, self.at_leader = connected_pair()
        members, self.at_member = connected_pair()
        for each in (leaders, members, self.at_leader, self.at_member):
            self._open.callback(each.close)
        with ThreadPoolExecutor(2) as ends:
            leads = ends.submit(Channel, leaders, key=key, leads=True)
            follows = ends.submit(Channel, members, key=members_key or key, leads=False)
            self.at_member.sendall(read(self.at_leader, NONCE_BYTES))
            self.at_leader.sendall(read(self.at_member, NONCE_BYTES))
            self.leader, self.member = leads.result(), follows.result()

    def carry(self) -> bytes:
        """Carry one message from the member to the leader, and give it."""
        frame = read_frame(self.at_member)
        self.at_leader.sendall(frame)
        return frame

    def close(self) -> None:
        """End everything."""
        self._open.close()
