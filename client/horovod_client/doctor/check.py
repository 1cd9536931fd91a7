"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARN: Final = "warn"
"""Some runs may fail, or the check was not possible."""
FAIL: Final = "fail"
"""No run can start or get nodes."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """
    The result of one check.

    Args:
        name: Name of the check.
        state: `OK`, `WARN` or `FAIL`.
        says: Finding, in a sentence.
        fix: What to do about it; empty if there is nothing to do.
    """

    name: str
    state: str
    says: str
    fix: str = ""


def unchecked(name: str, reason: str) -> Check:
    """Create the result of a check that was not possible."""
    return Check(name=name, state=WARN, says=f"could not be checked: {reason}")
