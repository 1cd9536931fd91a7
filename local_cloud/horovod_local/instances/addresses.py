"""Loopback addresses of instances and of the hosts of training jobs."""

from __future__ import annotations

import threading
from typing import Final

_LAST: Final = 254
"""Last number of the highest address of a cloud; the lowest one ends in 1."""


class Addresses:
    """
    The addresses of one cloud, each of which has one owner at a time.

    Their first three numbers follow from the cloud's port. Nodes of two clouds on one machine thus have different
    addresses, although all listen on the same fixed port.

    Args:
        endpoint: URL of the local cloud.
    """

    def __init__(self, endpoint: str) -> None:
        port = int(endpoint.rpartition(":")[2])
        self._network = f"127.{port >> 8}.{port & 255}"
        self._owned: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def shared(self) -> str:
        """The address of instances that run no agent, when all others are taken."""
        return f"{self._network}.0"

    def take(self, owner: str) -> str | None:
        """Return the address of *owner*, which gets the lowest free one if it has none; None if all are taken."""
        with self._lock:
            if owner not in self._owned:
                taken = set(self._owned.values())
                every = (f"{self._network}.{number}" for number in range(1, _LAST + 1))
                free = next((address for address in every if address not in taken), None)
                if free is None:
                    return None
                self._owned[owner] = free
            return self._owned[owner]

    def release(self, owner: str) -> None:
        """Give the address of *owner* back."""
        with self._lock:
            self._owned.pop(owner, None)
