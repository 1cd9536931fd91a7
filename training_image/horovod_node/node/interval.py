"""What a loop does from time to time."""

from __future__ import annotations

import math
import time


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
