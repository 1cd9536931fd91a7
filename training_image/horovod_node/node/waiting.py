"""How the agent's loops wait: until something is done, for a while, or from one time to the next."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

TURN_SECONDS = 0.1
"""Between two turns of a loop that waits; what is due less often has an `Interval`."""

_Found = TypeVar("_Found")


class Interval:
    """
    Tells a loop when it is time to do something again; the first time at once.

    Args:
        seconds: Between two times.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """May be changed at any time."""
        self._last = -math.inf

    def elapsed(self) -> bool:
        """Tell whether the interval is over; if so, the next one begins."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True

    def expire_now(self) -> None:
        """Let the interval be over at once."""
        self._last = -math.inf


def wait_until(done: Callable[[], bool], *, tick: Callable[[], object], seconds: float = math.inf) -> bool:
    """
    Call *tick*, then *done*, in turn, until it is done or the time is over.

    Args:
        done: Whether what is waited for has come.
        tick: Does what must go on meanwhile, such as heartbeats; what it raises ends the waiting.
        seconds: How long to wait. Default: for ever.

    Returns:
        What *done* said last: `False` when the time is over.
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
    Call *tick*, then *find*, in turn, for as long as it finds nothing.

    Args:
        find: Gives what is waited for, or `None`.
        tick: Does what must go on meanwhile; what it raises ends the waiting.
    """
    while True:
        tick()
        found = find()
        if found is not None:
            return found
        time.sleep(TURN_SECONDS)


def wait(seconds: float, *, tick: Callable[[], object]) -> None:
    """Call *tick* again and again for *seconds*."""
    wait_until(lambda: False, tick=tick, seconds=seconds)
