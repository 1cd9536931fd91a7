"""Things that a loop does from time to time."""

from __future__ import annotations

import math
import time


class Every:
    """
    Tells when something is due again; the first time at once.

    Args:
        seconds: Between two times.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        """May be changed at any time."""
        self._last = -math.inf

    def due(self) -> bool:
        """Answer whether it is time; if so, the next time is *seconds* from now."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True

    def hurry(self) -> None:
        """Make it due at once."""
        self._last = -math.inf
