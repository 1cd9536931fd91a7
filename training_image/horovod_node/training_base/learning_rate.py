"""How much longer a step of a ring may be than one rank's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Rule = Callable[[int], float]
"""Ring's size to factor of the learning rate."""

RULES: Final[dict[str, Rule]] = {"linear": float, "sqrt": lambda size: float(size**0.5), "none": lambda _size: 1.0}


def rule_of(scale_learning_rate: str | Rule) -> Rule:
    """
    Give the rule of a name, or the function itself.

    Raises:
        ValueError: If there is no rule of this name.
    """
    rule = RULES.get(scale_learning_rate) if isinstance(scale_learning_rate, str) else scale_learning_rate
    if rule is None:
        raise ValueError(
            f"'scale_learning_rate' must be one of {', '.join(RULES)}, or a function, got {scale_learning_rate}"
        )
    return rule
