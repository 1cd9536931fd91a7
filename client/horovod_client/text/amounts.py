"""Formatting of money, counts, bytes, durations and times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def usd(amount: float) -> str:
    """
    Format US dollars with enough digits for small amounts: `12.50`, `0.0028`.

    Args:
        amount: US dollars.
    """
    return f"{amount:.2f}" if abs(amount) >= 0.1 or amount == 0 else f"{amount:.4f}"


def usd_range(least: float, most: float) -> str:
    """
    Format a range of US dollars: `24.00 to 36.00`, or `24.00` if both ends look the same.

    Args:
        least: Lower end.
        most: Upper end.
    """
    low, high = usd(least), usd(most)
    return low if low == high else f"{low} to {high}"


def counted(number: float, noun: str) -> str:
    """
    Format a count: `1 GPU`, `16 GPUs`, `1.5 hours`.

    Args:
        number: The number.
        noun: Noun in the singular.
    """
    digits = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{digits} {noun}{'' if number == 1 else 's'}"


def byte_size(number: float) -> str:
    """
    Format a size: `512 B`, `3.2 GB`.

    Args:
        number: Number of bytes.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def moment(at: float) -> str:
    """
    Format a time, always with its zone: `2025-03-01 10:00 UTC`.

    Users of one training may be in several time zones, and AWS's own records are in UTC.

    Args:
        at: Epoch seconds.
    """
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """
    Format a duration: `40 s`, `12 min`, `3 h 5 min`.

    Args:
        seconds: Duration in seconds; a negative one counts as 0.
    """
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
