"""Waiting in the agent's loops: until something is done, for a time, or between two repetitions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

TURN_SECONDS = 0.1
"""Time between two iterations of a waiting loop; what is due less often has an `Interval`."""

_Found = TypeVar("_Found")


class Interval:
    """
    Tells a loop when to repeat something; the first time is due at once.

    Args:
        seconds: Time between two repetitions.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """May be changed at any time."""
        self._last = -math.inf

    def elapsed(self) -> bool:
        """Return whether the interval is over; if so, the next one begins."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True

    def expire_now(self) -> None:
        """End the interval now."""
        self._last = -math.inf


def wait_until(done: Callable[[], bool], *, tick: Callable[[], object], seconds: float = math.inf) -> bool:
    """
    Call *tick*, then *done*, repeatedly until *done* returns true or the time is over.

    Args:
        done: Returns whether the wait is over.
        tick: Does what must continue meanwhile, such as heartbeats; an exception that it raises ends the wait.
        seconds: How long to wait. Default: without limit.

    Returns:
        The last result of *done*: `False` if the time ran out.
    """
    give_up_at = time.monotonic() + seconds
    while True:
        tick()
        if done():
            return True
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(TURN_SECONDS)


def wait_for(find: Callable[[], _Found | None], *, tick: Callable[[], object]) -> _Found:
    """
    Call *tick*, then *find*, repeatedly until *find* returns something, and return that.

    Args:
        find: Returns the awaited value, or `None`.
        tick: Does what must continue meanwhile; an exception that it raises ends the wait.
    """
    while True:
        tick()
        found = find()
        if found is not None:
            return found
        time.sleep(TURN_SECONDS)


def wait(seconds: float, *, tick: Callable[[], object]) -> None:
    """Call *tick* repeatedly for *seconds*."""
    wait_until(lambda: False, tick=tick, seconds=seconds)
