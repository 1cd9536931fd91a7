"""Continues the training while the ring changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Answer = TypeVar("Answer")


class FitOverError(Exception):
    """The other ranks are in a later call of `fit`: the training of this call is already done."""


class RingChanged(Exception):  # noqa: N818 - not an error: all ranks leave at the same step, and nothing is lost
    """Nodes have joined, or are about to leave."""


class Ring(Protocol):
    """The methods of a framework's ring that `keep_training` uses."""

    def is_elastic(self) -> bool:
        """Whether the ring may change while this process lives."""

    def form_anew(self) -> None:
        """Reset the ring: leave the old one, and join the new one."""


class HostUpdates:
    """Receives Horovod's announcements that the ring will change, on rank 0, which tells the others at a commit."""

    def __init__(self) -> None:
        self._news = threading.Event()

    @property
    def pending(self) -> bool:
        """Whether there is an announcement that the other ranks have not received."""
        return self._news.is_set()

    def on_hosts_updated(self, timestamp: float, update_res: Any) -> None:  # noqa: ARG002 - the signature is Horovod's
        """Record an announcement; Horovod calls this in another thread."""
        self._news.set()

    def clear(self) -> None:
        """Forget the announcements; the new ring accounts for them."""
        self._news.clear()


def keep_training(
    train: Callable[[], Answer],
    *,
    sync: Callable[[], None],
    restore: Callable[[], None],
    updates: HostUpdates,
    ring: Ring,
    is_lost_ring: Callable[[BaseException], bool],
) -> Answer:
    """
    Train to the end, on one ring after another.

    A ring that breaks costs the steps since the last commit; an announced change costs nothing. In a static ring, all
    errors are raised.

    Args:
        train: Trains from the present state on. It raises `RingChanged` after announcements in *updates*.
        sync: Makes the state the same on all ranks, and commits it.
        restore: Returns to the last commit.
        updates: Announcements of changes of the ring.
        ring: The framework's ring.
        is_lost_ring: Whether an error means that ranks were lost, and not that this rank failed.

    Returns:
        The result of the last call of *train*.
    """
    if not ring.is_elastic():
        sync()
        return train()
    from horovod.common.elastic import notification_manager

    notification_manager.init()
    notification_manager.register_listener(updates)
    try:
        while True:
            try:
                sync()
                return train()
            except RingChanged:
                pass
            except Exception as error:
                if not is_lost_ring(error):
                    raise
                restore()
            ring.form_anew()
            updates.clear()
    finally:
        notification_manager.remove_listener(updates)
