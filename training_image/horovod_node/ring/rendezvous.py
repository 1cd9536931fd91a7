"""Horovod's rendezvous: where the ranks find each other, served by the leader."""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from horovod.runner.common.util.hosts import SlotInfo

_log = logging.getLogger(__name__)

LISTEN_BACKLOG: Final = 4096
"""
Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.

Horovod keeps socketserver's 5. All ranks connect at once, refused connections are repeated after whole seconds, and
with 64 ranks none gets through in Gloo's 30 s.
"""
_LARGEST_VALUE_BYTES: Final = 1024**2
"""Ranks store the addresses of all their connections, some 130 bytes for each other rank."""
_LARGEST_HEAD_BYTES: Final = 16 * 1024
"""Of a request; a rank's has less than a hundred."""
_CONNECTION_SECONDS: Final = 30.0
"""How long one request may take to arrive, and its answer to be taken; a rank's take milliseconds."""
_HOLD_SECONDS: Final = 1.0
"""
How long a question waits for its answer: a rank that is told "not there" asks again 10 ms later, all day. Not for ever,
because a rank looks at Gloo's timeout only between its questions.
"""
_LOOK_SECONDS: Final = 0.05
"""How often connections that took too long are looked for."""
_ACCEPTED_AT_ONCE: Final = 64
"""Then requests that arrive in pieces have their turn."""
_READ_BYTES: Final = 65536


class Rendezvous:
    """
    Serves a ring's rendezvous on the leader's address, until closed.

    It stores bytes and never interprets them. Only the leader's own address is bound, and there only one port, so that
    a security group can name it.

    Each pair of ranks makes some five requests, each on a connection of its own, and all at once: 128 ranks make 95,000
    of them. Horovod's server starts a thread for each and parses it as it would a mail. This one is one thread, which
    reads a whole request at once, and answers it with one call where nothing has to be waited for.

    Args:
        address: The leader's.
        port: Where on it.
        answers: What answers questions for the keys of a scope, instead of what is stored there; called in a thread of
            its own, because it may wait.

    Raises:
        OSError: If the port is taken.
    """

    def __init__(
        self, address: str, port: int, *, answers: Mapping[str, Callable[[str], bytes | None]] | None = None
    ) -> None:
        self._answers = answers or {}
        self._ring = _Ring(())
        self._open: dict[int, _Connection] = {}
        self._closing = False
        self._listener = socket.create_server((address, port), backlog=LISTEN_BACKLOG)
        self._listener.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._serve, name="rendezvous", daemon=True)
        self._thread.start()

    def init(self, slots: Sequence[SlotInfo]) -> None:
        """Forget everything, and serve the ring of these *slots*."""
        # Who waits for something of the last ring is told soon that it is not there.
        self._ring = _Ring(slots)

    def close(self) -> None:
        """Stop serving."""
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for connection in list(self._open.values()):
            self._drop(connection)
        self._listener.close()
        self._poll.close()
        os.close(self._wake)

    def _serve(self) -> None:
        look_at = 0.0
        while not self._closing:
            for descriptor, _ in self._poll.poll(_LOOK_SECONDS if self._open else None):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._open:
                    self._turn(self._open[descriptor])
            now = time.monotonic()
            if now >= look_at:
                look_at = now + _LOOK_SECONDS
                self._end_what_takes_long(now)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as reason:
                # No descriptor is left. The connection stays where it is, and would call again at once.
                _log.warning("the rendezvous cannot take a connection: %s", reason)
                time.sleep(_LOOK_SECONDS)
                return
            connection = _Connection(accepted, time.monotonic() + _CONNECTION_SECONDS)
            # Mostly all of it is there: then nothing else knows of the connection.
            self._turn(connection)

    def _turn(self, connection: _Connection) -> None:
        """Go on with a connection as far as that is possible without waiting."""
        try:
            if connection.unsent:
                self._send(connection)
            else:
                self._read(connection)
        except BlockingIOError:
            self._wait_for(connection, select.EPOLLOUT if connection.unsent else select.EPOLLIN)
        except OSError:
            self._drop(connection)
        except Exception:
            _log.exception("the rendezvous could not answer a request")
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        received = connection.socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        if not received:
            raise ConnectionError("hung up")
        connection.received += received
        try:
            request = _parse(connection.received)
        except _RefusedError as refused:
            self._answer(connection, _response(refused.status))
            return
        if request is None:
            raise BlockingIOError
        self._handle(connection, request)

    def _handle(self, connection: _Connection, request: _Request) -> None:
        ring, scope, key = self._ring, request.scope, request.key
        if request.method == "GET" and scope in self._answers:
            self._forget(connection)
            threading.Thread(
                target=_answer_in_time, args=(connection, self._answers[scope], key), name="rendezvous", daemon=True
            ).start()
        elif request.method == "GET":
            answer = ring.values[scope].get(key)
            if answer is not None:
                self._answer(connection, answer)
            else:
                connection.deadline = time.monotonic() + _HOLD_SECONDS
                connection.held = True
                ring.held[scope, key].append(connection)
                self._wait_for(connection, 0)
        elif request.method == "PUT":
            # The whole answer is kept: it is given to every rank, twice.
            answer = ring.values[scope][key] = _response("200 OK", request.value)
            self._answer(connection, _response("200 OK"))
            for waiting in ring.held.pop((scope, key), ()):
                if waiting.held:
                    self._answer(waiting, answer)
        else:
            ring.finish(scope, key)
            self._answer(connection, _response("200 OK"))

    def _answer(self, connection: _Connection, answer: bytes) -> None:
        connection.held = False
        connection.unsent = answer
        connection.deadline = time.monotonic() + _CONNECTION_SECONDS
        self._turn(connection)

    def _send(self, connection: _Connection) -> None:
        # More is to come, which is the end: so answer and end travel together, and this side always closes first. The
        # port of a side that does is taken for a minute, and a node that asks has 28,000 of them.
        sent = connection.socket.send(connection.unsent, socket.MSG_DONTWAIT | socket.MSG_MORE)
        if sent < len(connection.unsent):
            connection.unsent = connection.unsent[sent:]
            raise BlockingIOError
        self._drop(connection)

    def _wait_for(self, connection: _Connection, events: int) -> None:
        descriptor = connection.socket.fileno()
        if descriptor in self._open:
            self._poll.modify(descriptor, events)
        else:
            self._open[descriptor] = connection
            self._poll.register(descriptor, events)

    def _forget(self, connection: _Connection) -> None:
        descriptor = connection.socket.fileno()
        if self._open.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def _drop(self, connection: _Connection) -> None:
        connection.held = False
        self._forget(connection)
        connection.socket.close()

    def _end_what_takes_long(self, now: float) -> None:
        for connection in [connection for connection in self._open.values() if connection.deadline <= now]:
            if connection.held:
                self._answer(connection, _response("404 Not Found"))
            else:
                self._drop(connection)


@dataclass(slots=True)
class _Connection:
    """
    One rank's connection, for one request.

    Args:
        socket: The connection itself.
        deadline: When it ends, whatever was done.
        received: What came.
        unsent: What is still to be sent.
        held: Whether it waits for a value.
    """

    socket: socket.socket
    deadline: float
    received: bytes = b""
    unsent: bytes = b""
    held: bool = False


class _Request(NamedTuple):
    method: str
    scope: str
    key: str
    value: bytes


class _RefusedError(Exception):
    """A request that no rank makes; `status` is what it is answered."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class _Ring:
    """
    What the ranks of one ring have stored: scope, key, and the answer to who asks for it.

    A scope that all its ranks have left is forgotten, so that ranks which shut Horovod down and initialise it again do
    not find the addresses of the last time. Horovod's server forgets, together with the scope, who has left all the
    others, which then are never forgotten.

    Args:
        slots: The ring.
    """

    def __init__(self, slots: Iterable[SlotInfo]) -> None:
        self.values: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        self.held: defaultdict[tuple[str, str], list[_Connection]] = defaultdict(list)
        self._left: defaultdict[str, set[str]] = defaultdict(set)
        self._sizes: dict[str, int] = {}
        for slot in slots:
            self._sizes["global"] = slot.size
            self._sizes[f"local_{slot.hostname}"] = slot.local_size
            self._sizes[f"cross_{slot.local_rank}"] = slot.cross_size

    def finish(self, scope: str, key: str) -> None:
        """Know that a rank, which is the *key*, has found all others of a scope."""
        if scope not in self._sizes:
            # Of a set of processes, whose size only they know.
            self.values[scope].pop(key, None)
            return
        self._left[scope].add(key)
        if len(self._left[scope]) == self._sizes[scope]:
            del self._left[scope]
            self.values.pop(scope, None)


def _answer_in_time(connection: _Connection, answer: Callable[[str], bytes | None], key: str) -> None:
    """Answer a question that may take its time, in a thread of its own."""
    with connection.socket:
        try:
            value = answer(key)
            connection.socket.settimeout(_CONNECTION_SECONDS)
            connection.socket.sendall(_response("404 Not Found") if value is None else _response("200 OK", value))
        except Exception as reason:
            # Whoever asked is gone, or was overtaken by events: a rank that asks and dies.
            _log.info("a question for %s was not answered: %s", key, reason)


def _parse(received: bytes) -> _Request | None:
    """
    Read a request: `None` while it is not whole. Of one that was cut off nothing is kept: half an address is none.

    Raises:
        _RefusedError: If no rank asks so.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > _LARGEST_HEAD_BYTES:
            raise _RefusedError("431 Request Header Fields Too Large")
        return None
    line, _, lines = received[:end].decode("latin-1").partition("\r\n")
    method, _, rest = line.partition(" ")
    if method not in ("GET", "PUT", "DELETE"):
        raise _RefusedError("405 Method Not Allowed")
    parts = rest.partition(" ")[0].split("/")
    if len(parts) != 3:
        raise _RefusedError("400 Bad Request")
    size = _told_size(lines.split("\r\n")) if method == "PUT" else 0
    value = received[end + 4 : end + 4 + size]
    return _Request(method, parts[1], parts[2], value) if len(value) == size else None


def _told_size(lines: Iterable[str]) -> int:
    pairs = (line.partition(":") for line in lines)
    told = [value.strip() for name, _, value in pairs if name.lower() == "content-length"]
    # Digits alone: a negative length would be read without end.
    if len(told) != 1 or not (told[0].isascii() and told[0].isdigit()):
        raise _RefusedError("411 Length Required")
    if len(told[0]) > len(str(_LARGEST_VALUE_BYTES)) or int(told[0]) > _LARGEST_VALUE_BYTES:
        raise _RefusedError("413 Content Too Large")
    return int(told[0])


def _response(status: str, value: bytes = b"") -> bytes:
    """Write an answer, with the one header that Horovod's client reads; the connection ends with it."""
    return b"HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(value), value)
