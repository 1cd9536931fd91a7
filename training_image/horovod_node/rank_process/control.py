"""
The connection between an agent and one of its ranks in an elastic ring: a socket pair, with one JSON object per line.

The agent sends `start` (the ring's environment for this rank), `hosts` (the ring will change at the next commit) and
`sever` (the ring is broken: these are its addresses). The rank sends `standby` (it waits in `hvd.init()`), `forming`,
and `ring` (its rank and the ring's size, once the ring is formed).

A new rank runs the script up to `hvd.init()`, and waits there before the ring learns of it. A ring that grows is thus
interrupted only for a reset, and not while the new rank imports TensorFlow or PyTorch.

These messages replace Horovod's own notifications. For those, every rank listens on a port and publishes its key,
unencrypted and pickled, where anybody in the network can read it (horovod 0.28.1, runner/elastic/worker.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from horovod_node import contract

ENV_CONTROL: Final = "CDK_HOROVOD_RANK_CONTROL"
"""File descriptor of the rank's end; unset in a static ring."""

STANDBY: Final = "standby"
FORMING: Final = "forming"
IN_RING: Final = "ring"
START: Final = "start"
HOSTS: Final = "hosts"
SEVER: Final = "sever"

_FORMING_TRIES: Final = 5
"""
Attempts to form a ring. Another node may be lost meanwhile, but so many failures in a row have another cause.
"""


class RankConnection:
    """The agent's end of the connection to one rank."""

    def __init__(self) -> None:
        self._socket, self.ranks_end = socket.socketpair()
        """`ranks_end`: the end for the rank's process, closed here by `handed_over` once the process has it."""
        self._socket.setblocking(False)
        self._rest = b""
        self.state = ""
        """The rank's last message: `STANDBY`, `FORMING`, `IN_RING`, or '' if there was none yet."""
        self.rank: int | None = None
        self.size = 0
        self.formed = 0
        """How many rings the rank has been in."""

    def handed_over(self) -> None:
        """Close the rank's end here, so that the connection closes when the rank's process ends."""
        self.ranks_end.close()

    def poll(self) -> None:
        """Read the messages that the rank has sent."""
        with contextlib.suppress(OSError):  # no more data for now, or the other end is closed
            while part := self._socket.recv(4096):
                self._rest += part
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def start(self, environment: Mapping[str, str]) -> None:
        """Tell the rank to join the ring that *environment* describes."""
        self._tell({START: dict(environment)})

    def hosts_updated(self, result: int) -> None:
        """
        Announce that the ring will change at the next commit; only rank 0 needs to know.

        Args:
            result: Horovod's `HostUpdateResult`.
        """
        # Horovod compares timestamps: whole seconds, as it sends itself, would lose the second of two changes.
        self._tell({HOSTS: [time.time(), result]})

    def sever(self, addresses: Sequence[str]) -> None:
        """Close the rank's connections to these *addresses* of a broken ring, instead of waiting for Gloo's timeout."""
        self._tell({SEVER: list(addresses)})

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        self.ranks_end.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        (self.state,) = message
        if self.state == IN_RING:
            self.rank, self.size = message[IN_RING]
            self.formed += 1

    def _tell(self, message: Mapping[str, Any]) -> None:
        # If the rank has ended, its exit code shows it.
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")


class AgentConnection:
    """
    The rank's end of the connection: a thread that listens to the agent, and hooks into Horovod.

    Args:
        connection: The rank's end of the pair.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._environment: dict[str, str] | None = None
        self._started = threading.Event()
        self._joined = False
        self._ring_sockets: set[int] = set()
        self._others: set[int] | None = None
        """While a ring is being formed: the sockets that were open before, which do not belong to it."""
        self._elastic: ModuleType | None = None
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AgentConnection | None:
        """Return the connection that the agent passed to this process; `None` in a static ring."""
        number = environment.get(ENV_CONTROL)
        return cls(socket.socket(fileno=int(number))) if number else None

    def hooks(self) -> dict[str, Callable[[ModuleType], None]]:
        """Return the hooks, by the module after whose import they run."""
        return {"horovod.common.basics": self._wrap_init, "horovod.common.elastic": self._replace_notifications}

    def start(self) -> None:
        """Start to listen to the agent."""
        self._thread.start()

    def _wrap_init(self, module: ModuleType) -> None:
        basics: Any = module.HorovodBasics
        init = basics.init

        @functools.wraps(init)
        def init_when_told(instance: Any, *args: Any, **kwargs: Any) -> None:
            if not self._joined:
                self._joined = True
                self._tell({STANDBY: True})
                self._started.wait()
                os.environ.update(self._environment or {})
            self._tell({FORMING: True})
            self._ring_sockets = self._form(instance, functools.partial(init, instance, *args, **kwargs))
            self._others = None
            self._tell({IN_RING: [instance.rank(), instance.size()]})

        basics.init = init_when_told

    def _form(self, instance: Any, init: Callable[[], object]) -> set[int]:
        """Form the ring, and return its sockets."""
        tries_left = _FORMING_TRIES
        while True:
            tries_left -= 1
            others = self._others = open_sockets()
            try:
                init()
            except ValueError:
                # A node was lost while the ring was formed. This rank still has its state, so it tries again.
                instance.shutdown()
                if not tries_left:
                    raise
            else:
                return open_sockets() - others

    def _replace_notifications(self, module: ModuleType) -> None:
        self._elastic = module
        module.notification_manager.init = lambda *_args, **_kwargs: None

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._connection.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                self._handle(json.loads(line))

    def _handle(self, message: Mapping[str, Any]) -> None:
        if START in message:
            self._environment = message[START]
            self._started.set()
        elif HOSTS in message and self._elastic is not None:
            timestamp, result = message[HOSTS]
            update = self._elastic.HostUpdateResult(result)
            self._elastic.notification_manager.handle_hosts_updated(timestamp, update)
        elif SEVER in message:
            others = self._others
            sever(self._ring_sockets if others is None else open_sockets() - others, message[SEVER])

    def _tell(self, message: Mapping[str, Any]) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._connection.sendall(json.dumps(message).encode() + b"\n")


def open_sockets() -> set[int]:
    """Return the inodes of this process's sockets. Their file descriptors may be reused at any moment."""
    return {inode for _, inode in _sockets()}


def sever(inodes: Collection[int], addresses: Collection[str]) -> int:
    """
    Shut down this process's connections with a ring.

    When a peer vanishes without closing its connection, Gloo and NCCL wait until their own timeouts. A connection that
    is shut down here fails at once, and an elastic script recovers from that.

    Args:
        inodes: Gloo's sockets, which were opened when the ring was formed.
        addresses: Addresses of the ring's nodes. They identify NCCL's connections, which are opened at its first use.

    Returns:
        The number of connections that were shut down.
    """
    severed = 0
    for number, inode in _sockets():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if connection.family != socket.AF_INET or connection.type != socket.SOCK_STREAM:
                continue
            address, port = connection.getpeername()
            if port != contract.RENDEZVOUS_PORT and (inode in inodes or address in addresses):
                connection.shutdown(socket.SHUT_RDWR)
                severed += 1
    return severed


def _sockets() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = entry.stat()
            if stat.S_ISSOCK(status.st_mode):
                yield int(entry.name), status.st_ino
