"""Rules that scale the learning rate with the ring's size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Rule = Callable[[int], float]
"""Returns the factor of the learning rate for a ring's size."""

RULES: Final[dict[str, Rule]] = {"linear": float, "sqrt": lambda size: float(size**0.5), "none": lambda _size: 1.0}


def rule_of(scale_learning_rate: str | Rule) -> Rule:
    """
    Return the rule with this name, or the given function itself.

    Raises:
        ValueError: If there is no rule with this name.
    """
    rule = RULES.get(scale_learning_rate) if isinstance(scale_learning_rate, str) else scale_learning_rate
    if rule is None:
        raise ValueError(
            f"'scale_learning_rate' must be one of {', '.join(RULES)}, or a function, got {scale_learning_rate}"
        )
    return rule
