"""Waiting in tests: for what must come, without asserting when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

SECONDS: Final = 240.0
"""A loaded machine is slow; a test that fails takes this long, one that passes does not."""

Seen = TypeVar("Seen")


def eventually(look: Callable[[], Seen], wanted: Callable[[Seen], object] = bool, *, seconds: float = SECONDS) -> Seen:
    """Look again and again until what is seen is wanted; return it, or what was seen last when patience ends."""
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > until:
            return seen
        time.sleep(0.02)
