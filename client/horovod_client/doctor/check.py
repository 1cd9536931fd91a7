"""What a look at one thing found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARN: Final = "warn"
"""It may be in the way of some runs, or could not be checked."""
FAIL: Final = "fail"
"""No run can be started, or none can get nodes."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    What one check found.

    Args:
        name: What was looked at.
        state: `OK`, `WARN` or `FAIL`.
        says: What was found, in a sentence.
        fix: What to do about it; empty when there is nothing to do.
    """

    name: str
    state: str
    says: str
    fix: str = ""


def unchecked(name: str, reason: str) -> Check:
    """Build the check of what could not be looked at."""
    return Check(name=name, state=WARN, says=f"could not be checked: {reason}")
