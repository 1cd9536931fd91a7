"""Snapshots: texts that were reviewed, which `make snapshots` writes anew."""

from __future__ import annotations

import pytest

from support.synthesis import REPOSITORY

SNAPSHOTS = REPOSITORY / "tests" / "snapshots"


def compare(name: str, text: str, request: pytest.FixtureRequest) -> None:
    """Compare *text* with the snapshot of this name, or write it there when `--update-snapshots` is given."""
    if request.config.getoption("--update-snapshots"):
        (SNAPSHOTS / name).parent.mkdir(exist_ok=True)
        (SNAPSHOTS / name).write_text(text)
    assert text == (SNAPSHOTS / name).read_text(), f"{name} changed: review it, then run `make snapshots`"
