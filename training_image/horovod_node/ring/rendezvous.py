"""Horovod's rendezvous server, which ranks use to find each other; it runs on the leader."""

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
Connections that may wait to be accepted; the kernel limits it to net.core.somaxconn.

Horovod keeps socketserver's default of 5. All ranks connect at once, a dropped connection is retried only after whole
seconds, and with 64 ranks none gets through within Gloo's 30 s.
"""
_LARGEST_VALUE_BYTES: Final = 1024**2
"""Largest value of a key. A rank stores the addresses of all its connections, some 130 bytes for each other rank."""
_LARGEST_HEAD_BYTES: Final = 16 * 1024
"""Largest header of a request; a rank's has less than a hundred bytes."""
_CONNECTION_SECONDS: Final = 30.0
"""Time limit for receiving a request, and for sending its response; a rank's take milliseconds."""
_HOLD_SECONDS: Final = 1.0
"""
How long a GET waits for a value that is not stored yet: a rank that receives 404 asks again after 10 ms. The wait is
limited because a rank checks Gloo's timeout only between its requests.
"""
_LOOK_SECONDS: Final = 0.05
"""Time between two checks for connections that are past their deadline."""
_ACCEPTED_AT_ONCE: Final = 64
"""Connections that are accepted in a row before open ones are read again."""
_READ_BYTES: Final = 65536


class Rendezvous:
    """
    Serves a ring's rendezvous on the leader's address, until closed.

    It stores bytes and never interprets them. It listens only on the leader's own address and on one fixed port, so
    that a security group can name it.

    Each pair of ranks makes some five requests, each on a new connection, and all at once: 128 ranks make 95,000 of
    them. Horovod's server starts a thread for each and parses its headers with Python's mail parser. This server has a
    single thread, which reads a whole request at once and sends a known value with one call.

    Args:
        address: Address of the leader.
        port: Port to listen on.
        answers: Functions that answer GET requests of a scope in place of stored values. Each call has its own thread,
            because it may wait. Default: none.

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
        # Requests that wait for a value of the previous ring receive 404 within `_HOLD_SECONDS`.
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
                # No file descriptor is left. The connection stays in the backlog, so epoll would report it at once.
                _log.warning("the rendezvous cannot accept a connection: %s", reason)
                time.sleep(_LOOK_SECONDS)
                return
            connection = _Connection(accepted, time.monotonic() + _CONNECTION_SECONDS)
            # The whole request has usually arrived: then the connection is never registered with epoll.
            self._turn(connection)

    def _turn(self, connection: _Connection) -> None:
        """Read from or write to a connection as far as possible without blocking."""
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
            # The whole response is stored: every rank reads it, twice.
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
        # MSG_MORE holds the response back until the close, so data and FIN travel together and this side always closes
        # first. The closing side's port stays in TIME_WAIT for a minute: on a node, which has 28,000 ephemeral ports,
        # they could run out.
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
        socket: The socket.
        deadline: When it is answered with 404 if it is held, and closed otherwise; seconds of the monotonic clock.
        received: Bytes received so far.
        unsent: Bytes still to be sent.
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
    """A request that no rank makes; `status` is the HTTP status of the response."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class _Ring:
    """
    The values that the ranks of one ring have stored, as ready HTTP responses by scope and key.

    A scope is forgotten once all its ranks have left it, so that ranks that shut Horovod down and initialise it again
    do not find old addresses. Horovod's server then also forgets which ranks have left the other scopes, so those are
    never removed.

    Args:
        slots: The ring's slots.
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
        """Record that the rank named by *key* has found all others of a scope."""
        if scope not in self._sizes:
            # The scope of a process set, whose size only its ranks know.
            self.values[scope].pop(key, None)
            return
        self._left[scope].add(key)
        if len(self._left[scope]) == self._sizes[scope]:
            del self._left[scope]
            self.values.pop(scope, None)


def _answer_in_time(connection: _Connection, answer: Callable[[str], bytes | None], key: str) -> None:
    """Answer a request whose answer may take time; runs in its own thread."""
    with connection.socket:
        try:
            value = answer(key)
            connection.socket.settimeout(_CONNECTION_SECONDS)
            connection.socket.sendall(_response("404 Not Found") if value is None else _response("200 OK", value))
        except Exception as reason:
            # The rank that asked has died, or the ring has changed in the meantime.
            _log.info("a request for %s was not answered: %s", key, reason)


def _parse(received: bytes) -> _Request | None:
    """
    Parse a request; return `None` while it is incomplete. A PUT that was cut off stores nothing.

    Raises:
        _RefusedError: If no rank sends such a request.
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
    """Build a response with the one header that Horovod's client reads; the connection closes after it."""
    return b"HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(value), value)
