"""
The line between an agent and one of its ranks in an elastic ring: a socket pair, one JSON object a line.

From the agent: `start` (the ring's environment for this rank), `hosts` (the ring will change at the next commit),
`sever` (the ring is broken: these are its addresses). From the rank: `standby` (it waits in `hvd.init()`), `forming`,
and `ring` (its rank and the ring's size, once it is formed).

A rank runs the script up to `hvd.init()`, with its imports of TensorFlow or PyTorch, before the ring is told of it, and
waits there: a ring that grows stands still for the time of a reset only, not for that of an import.

The notifications take the place of Horovod's own, for which every rank serves a port and puts its key, in clear and
pickled, where anybody in the network can read it (horovod 0.28.1, runner/elastic/worker.py).
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
"""File descriptor of the rank's end; absent in a ring that never changes."""

STANDBY: Final = "standby"
FORMING: Final = "forming"
IN_RING: Final = "ring"
START: Final = "start"
HOSTS: Final = "hosts"
SEVER: Final = "sever"

_FORMING_TRIES: Final = 5
"""A ring may lose another node while it is formed, and the next one, too; so many times in a row it is no accident."""


class RankConnection:
    """The agent's end: the line to one rank."""

    def __init__(self) -> None:
        self._socket, self.ranks_end = socket.socketpair()
        """`ranks_end`: to be given to the rank's process, then closed with `handed_over`."""
        self._socket.setblocking(False)
        self._rest = b""
        self.state = ""
        """The last word of the rank: `STANDBY`, `FORMING`, `IN_RING`, or nothing yet."""
        self.rank: int | None = None
        self.size = 0
        self.formed = 0
        """Rings that the rank has been in."""

    def handed_over(self) -> None:
        """Close the rank's end here, so that its death closes the line."""
        self.ranks_end.close()

    def poll(self) -> None:
        """Take what the rank has said."""
        with contextlib.suppress(OSError):  # nothing more for now, or nobody at the other end
            while part := self._socket.recv(4096):
                self._rest += part
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def start(self, environment: Mapping[str, str]) -> None:
        """Let the rank join the ring that *environment* describes."""
        self._tell({START: dict(environment)})

    def hosts_updated(self, result: int) -> None:
        """Let the ring change at the next commit; only rank 0 has to know. *result* is Horovod's `HostUpdateResult`."""
        # By the clock in full: Horovod compares, and its own whole seconds lose the second of two changes.
        self._tell({HOSTS: [time.time(), result]})

    def sever(self, addresses: Sequence[str]) -> None:
        """Let the rank lose the ring of these *addresses*, for which it would wait until Gloo's timeout."""
        self._tell({SEVER: list(addresses)})

    def close(self) -> None:
        """End the line."""
        self._socket.close()
        self.ranks_end.close()

    def _take(self, message: Mapping[str, Any]) -> None:
        (self.state,) = message
        if self.state == IN_RING:
            self.rank, self.size = message[IN_RING]
            self.formed += 1

    def _tell(self, message: Mapping[str, Any]) -> None:
        # A rank that has ended is noticed by its exit code.
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")


class AgentConnection:
    """
    The rank's end: a thread that listens to the agent, and hooks into Horovod.

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
        """While a ring is formed: the sockets that are none of its."""
        self._elastic: ModuleType | None = None
        self._thread = threading.Thread(target=self._listen, name="control", daemon=True)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> AgentConnection | None:
        """Take the end that the agent gave; `None` in a ring that never changes."""
        number = environment.get(ENV_CONTROL)
        return cls(socket.socket(fileno=int(number))) if number else None

    def hooks(self) -> dict[str, Callable[[ModuleType], None]]:
        """Give what must happen after the import of which module."""
        return {"horovod.common.basics": self._wrap_init, "horovod.common.elastic": self._replace_notifications}

    def start(self) -> None:
        """Listen from now on."""
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
        """Form the ring, and give the sockets that it is made of."""
        tries_left = _FORMING_TRIES
        while True:
            tries_left -= 1
            others = self._others = open_sockets()
            try:
                init()
            except ValueError:
                # Lost while it was formed. What this rank has learned is still here: it is worth another try.
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
    """List this process's sockets by inode: a file descriptor's number may be another one's a moment later."""
    return {inode for _, inode in _sockets()}


def sever(inodes: Collection[int], addresses: Collection[str]) -> int:
    """
    Shut down this process's connections with a ring, and count them.

    Gloo and NCCL wait on a connection whose other end vanished without a word until their own timeouts; one that is
    shut down is an error at once, which an elastic script recovers from.

    Args:
        inodes: Those that were made when the ring was formed: Gloo's.
        addresses: Of the ring's nodes, because NCCL connects only when it is first used.
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
