"""Training on while the ring changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Answer = TypeVar("Answer")


class FitOverError(Exception):
    """The other ranks are in a later call of `fit`: what this one would train is trained."""


class RingChanged(Exception):  # noqa: N818 - no error: all ranks leave at the same step, and nothing is lost
    """Nodes have come, or are about to go."""


class Ring(Protocol):
    """What `keep_training` needs of a framework's ring."""

    def is_elastic(self) -> bool:
        """Whether the ring may change while this process lives."""

    def form_anew(self) -> None:
        """Leave the ring that was, and join the one that is."""


class HostUpdates:
    """Hears from Horovod that the ring is about to change; on rank 0, which tells the others when they commit."""

    def __init__(self) -> None:
        self._news = threading.Event()

    @property
    def pending(self) -> bool:
        """Whether there is something to tell."""
        return self._news.is_set()

    def on_hosts_updated(self, timestamp: float, update_res: Any) -> None:  # noqa: ARG002 - the signature is Horovod's
        """Take Horovod's word for it; called by another thread."""
        self._news.set()

    def clear(self) -> None:
        """Forget what the ring that was formed since takes care of."""
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

    A ring that breaks costs what was done since the last commit; one that changes in order costs nothing. In a ring
    that cannot change, an error is an error.

    Args:
        train: Trains; begins where the state is.
        sync: Makes the state the same on all ranks, and commits it.
        restore: Goes back to the last commit.
        updates: What *train* raises `RingChanged` for.
        ring: The framework's.
        is_lost_ring: Whether an error says that ranks were lost, and not that something is wrong with this one.

    Returns:
        What *train* returned at last.
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
