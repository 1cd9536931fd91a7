"""Horovod's rendezvous: where the ranks find each other, served by the leader."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Sequence

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

LISTEN_BACKLOG = 4096
"""
Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.

Horovod keeps socketserver's 5. All ranks connect at once, refused connections are repeated after whole seconds, and
with 64 ranks none gets through in Gloo's 30 s (measured: all fail; with 4096 they take 17 to 19 s).
"""
_LARGEST_VALUE_BYTES = 1024**2
"""Ranks store addresses of some hundred bytes."""

_CONNECTION_SECONDS = 30.0
"""
How long one request may take to arrive. Ranks ask for one thing on each connection, in milliseconds. Horovod's limit of
3 s is for each read alone, so that single bytes could hold a thread for ever.
"""

_CLOSE_SECONDS = 0.05
"""How long closing takes at most; every node of the run is paid for meanwhile."""


class Rendezvous:
    """
    Serves a ring's rendezvous on the leader's address, until closed.

    It stores bytes and never interprets them. Only the leader's own address is bound, and there only one port, so that
    a security group can name it.

    Args:
        address: The leader's.
        port: Where on it.
        handler: Answers requests. Default: stores and gives bytes, which is all that a ring needs that never changes.

    Raises:
        OSError: If the port is taken.
    """

    def __init__(self, address: str, port: int, *, handler: type[BytesHandler] | None = None) -> None:
        self._server = _Server((address, port), handler or BytesHandler, verbose=0)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_CLOSE_SECONDS,), name="rendezvous", daemon=True
        )
        self._thread.start()

    def init(self, slots: Sequence[SlotInfo]) -> None:
        """Forget everything, and serve the ring of these *slots*."""
        self._server.init(slots)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(RendezvousHTTPServer):  # type: ignore[misc]  # Horovod publishes no types
    request_queue_size = LISTEN_BACKLOG
    daemon_threads = True

    def server_bind(self) -> None:
        # HTTPServer asks DNS for its own name here, which takes many seconds in a subnet without a resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]


class BytesHandler(RendezvousHandler):  # type: ignore[misc]  # Horovod publishes no types
    """Stores and gives bytes of limited size, to whoever asks in limited time."""

    def setup(self) -> None:
        super().setup()
        # Shut down from another thread, whatever this one waits for. One request a connection, as HTTP/1.0 has it.
        self._limit = threading.Timer(_CONNECTION_SECONDS, self._give_up)
        self._limit.daemon = True
        self._limit.start()

    def finish(self) -> None:
        self._limit.cancel()
        super().finish()

    def do_PUT(self) -> None:  # noqa: N802 - the name is http.server's
        told = self.headers.get_all("Content-Length") or []
        # Digits alone: a negative length would read without end.
        if len(told) != 1 or not (told[0].isascii() and told[0].isdigit()):
            self.send_status_code(411)
        elif len(told[0]) > len(str(_LARGEST_VALUE_BYTES)) or int(told[0]) > _LARGEST_VALUE_BYTES:
            self.send_status_code(413)
        else:
            super().do_PUT()

    def do_HEAD(self) -> None:  # noqa: N802 - the name is http.server's
        # Inherited from SimpleHTTPRequestHandler, it would tell which files lie in the agent's working folder.
        self.send_status_code(405)

    def _put_value(self, scope: str, key: str, value: bytes) -> None:
        # Of a request that was cut off nothing is kept: half an address is none.
        if len(value) == int(self.headers["Content-Length"]):
            super()._put_value(scope, key, value)

    def _give_up(self) -> None:
        with contextlib.suppress(OSError):  # it has ended by itself
            self.connection.shutdown(socket.SHUT_RDWR)
