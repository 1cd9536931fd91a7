"""How amounts and times are written for people."""

from __future__ import annotations

import time

import pytest

from horovod_client.text.amounts import byte_size, moment


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_times_are_utc_and_say_so(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """A time is written in UTC and says so, so that it can be compared with what AWS shows."""
    # GIVEN
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        # THEN
        assert moment(1_740_823_259) == "2025-03-01 10:00 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (3_249_000_000, "3.2 GB"), (5e15, "5000.0 TB")],
)
def test_sizes_have_a_unit(number: float, text: str) -> None:
    """A size has the unit that fits it, in powers of 1,000 as S3's console counts."""
    assert byte_size(number) == text
