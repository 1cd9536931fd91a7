"""How amounts are written for people: of money, of things, of bytes, of time, and when something was."""

from __future__ import annotations

from datetime import UTC, datetime


def usd(amount: float) -> str:
    """
    Write US dollars with as many digits as say something: `12.50`, `0.0028`.

    Args:
        amount: US dollars.
    """
    return f"{amount:.2f}" if abs(amount) >= 0.1 or amount == 0 else f"{amount:.4f}"


def counted(number: float, noun: str) -> str:
    """
    Write how many there are: `1 GPU`, `16 GPUs`, `1.5 hours`.

    Args:
        number: How many.
        noun: What, in the singular.
    """
    digits = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{digits} {noun}{'' if number == 1 else 's'}"


def byte_size(number: float) -> str:
    """
    Write a size: `512 B`, `3.2 GB`.

    Args:
        number: Bytes.
    """
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def moment(at: float) -> str:
    """
    Write when something was, in UTC and saying so, as every time that is printed for people: `2025-03-01 10:00 UTC`.

    Runs, receipts and logs of one training are read in several zones, and AWS's own records are in UTC.

    Args:
        at: Epoch seconds.
    """
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def duration(seconds: float) -> str:
    """
    Write a time that has passed as people say it: `40 s`, `12 min`, `3 h 5 min`.

    Args:
        seconds: How long; less than nothing counts as nothing.
    """
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
