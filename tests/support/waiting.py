"""Waiting in tests: until what must happen has happened, without asserting how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

SECONDS: Final = 240.0
"""How long a test waits before it fails. A test that passes takes as long as it needs, on a loaded machine too."""

Seen = TypeVar("Seen")


def eventually(look: Callable[[], Seen], wanted: Callable[[Seen], object] = bool, *, seconds: float = SECONDS) -> Seen:
    """
    Call *look* until *wanted* accepts what it returns.

    Args:
        look: Returns what is to be judged.
        wanted: Judges it. Default: whether it is true.
        seconds: How long to try. Default: `SECONDS`.

    Returns:
        What *look* returned last, whether it was accepted or not: the test asserts that.
    """
    until = time.monotonic() + seconds
    while True:
        seen = look()
        if wanted(seen) or time.monotonic() > until:
            return seen
        time.sleep(0.02)
