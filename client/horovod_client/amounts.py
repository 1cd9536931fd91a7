"""How amounts of money are written for people."""

from __future__ import annotations


def usd(amount: float) -> str:
    """
    Write US dollars with as many digits as say something: `12.50`, `0.0028`.

    Args:
        amount: US dollars.
    """
    return f"{amount:.2f}" if abs(amount) >= 0.1 or amount == 0 else f"{amount:.4f}"
