"""How amounts are written for people: of money, and of things."""

from __future__ import annotations


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
