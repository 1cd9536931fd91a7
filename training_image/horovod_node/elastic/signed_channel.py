"""
The connection between the leader of an elastic ring and one of its nodes: signed JSON messages, protected from replay.

Every message carries an HMAC-SHA256 over the sender's role, the nonces of both ends, and a sequence number. So a
message recorded on another connection, or earlier on this one, is never accepted. Each ring has its own key, which the
nodes read from the ledger. Messages are not encrypted: they contain ranks, ports and steps. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import struct
import threading
import time
from typing import Any, Final

KEY_BYTES: Final = 32
SILENCE_SECONDS: Final = 5.0
"""
Time without a message after which the other end counts as unreachable: ten heartbeats are missing then. It is much
shorter than Gloo's timeout of 30 s, during which the ring would otherwise stand still.
"""
BEAT_SECONDS: Final = 0.5
"""Time between two heartbeats, which are empty messages."""

_NONCE_BYTES: Final = 16
_MAC_BYTES: Final = 32
_LENGTH: Final = struct.Struct("!I")
_PLACE: Final = struct.Struct("!Q")
_LARGEST_MESSAGE: Final = 1024**2
"""In bytes; the largest messages hold a rank's environment, or a failure with its traceback."""

Message = dict[str, Any]


class ChannelClosedError(Exception):
    """
    The connection has ended.

    Args:
        why: The reason, for people.
        silent: Whether the other end may still run, cut off from this one. If not, its kernel closed the connection, so
            its process has ended.
    """

    def __init__(self, why: str, *, silent: bool = False) -> None:
        super().__init__(why)
        self.silent = silent


class Channel:
    """
    One end of a connection.

    Args:
        connection: A connected socket; this object owns it from now on.
        key: The ring's key.
        leads: Whether this end is the leader's.

    Raises:
        ChannelClosedError: If the other end does not send its nonce in time.
    """

    def __init__(self, connection: socket.socket, *, key: bytes, leads: bool) -> None:
        self._connection = connection
        self._key = key
        self._leads = leads
        self._lock = threading.Lock()
        self._sent = 0
        self._received = 0
        self._unsent: ChannelClosedError | None = None
        connection.settimeout(SILENCE_SECONDS)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine = secrets.token_bytes(_NONCE_BYTES)
            connection.sendall(mine)
            theirs = self._read(_NONCE_BYTES)
        except OSError as error:
            connection.close()
            raise ChannelClosedError(f"no greeting: {error}", silent=_is_silence(error)) from error
        except ChannelClosedError:
            connection.close()
            raise
        self._session = mine + theirs if leads else theirs + mine

    def send(self, message: Message) -> None:
        """
        Send *message*; any thread may call this.

        Raises:
            ChannelClosedError: If it cannot be sent.
        """
        body = json.dumps(message, separators=(",", ":")).encode()
        with self._lock:
            frame = _LENGTH.pack(len(body)) + self._sign(body, place=self._sent, leads=self._leads) + body
            self._sent += 1
            try:
                self._connection.sendall(frame)
            except OSError as error:
                reason = ChannelClosedError(f"not sent: {error}", silent=_is_silence(error))
                # `receive` must report this reason: the close that follows is not the other end's.
                self._unsent = self._unsent or reason
                self.close()
                raise reason from error

    def receive(self) -> Message:
        """
        Wait for the next message; only one thread may call this.

        Raises:
            ChannelClosedError: If the connection has ended, is silent for `SILENCE_SECONDS`, or a signature is wrong.
        """
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            if length > _LARGEST_MESSAGE:
                raise ChannelClosedError(f"a message of {length} bytes")
            mac, body = self._read(_MAC_BYTES), self._read(length)
        except TimeoutError as error:
            self.close()
            raise ChannelClosedError(f"silent for {SILENCE_SECONDS:.0f} s", silent=True) from error
        except OSError as error:
            self.close()
            raise self._unsent or ChannelClosedError(f"connection lost: {error}", silent=_is_silence(error)) from error
        except ChannelClosedError as reason:
            self.close()
            raise self._unsent or reason from None
        if not hmac.compare_digest(mac, self._sign(body, place=self._received, leads=not self._leads)):
            self.close()
            raise ChannelClosedError("a message with a wrong signature")
        self._received += 1
        message: Message = json.loads(body)
        return message

    def close(self) -> None:
        """Close the connection; pending calls on both ends return with an error."""
        with contextlib.suppress(OSError):  # the other end has closed it already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self, count: int) -> bytes:
        data = b""
        # The socket's timeout applies to each part only: a stranger could block this thread with single bytes.
        give_up_at = time.monotonic() + SILENCE_SECONDS
        while len(data) < count:
            if data and time.monotonic() > give_up_at:
                raise TimeoutError
            part = self._connection.recv(count - len(data))
            if not part:
                raise ChannelClosedError("connection closed")
            data += part
        return data

    def _sign(self, body: bytes, *, place: int, leads: bool) -> bytes:
        text = (b"leader" if leads else b"member") + self._session + _PLACE.pack(place) + body
        return hmac.digest(self._key, text, hashlib.sha256)


def connect(address: str, port: int, *, key: bytes, source: str) -> Channel:
    """
    Connect to a leader.

    Args:
        address: Address of the leader.
        port: Port of the leader's control server.
        key: The ring's key.
        source: This node's own address, used as the source address.

    Raises:
        ChannelClosedError: If the leader does not accept the connection.
    """
    try:
        connection = socket.create_connection((address, port), timeout=SILENCE_SECONDS, source_address=(source, 0))
    except OSError as error:
        raise ChannelClosedError(f"{address}:{port} does not answer: {error}", silent=_is_silence(error)) from error
    return Channel(connection, key=key, leads=False)


def _is_silence(error: OSError) -> bool:
    """Whether the other end may still run: only a reset or refusal by its kernel proves that its process has ended."""
    return not isinstance(error, ConnectionError)
