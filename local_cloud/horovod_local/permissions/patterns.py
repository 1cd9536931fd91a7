"""
Wildcards and variables of policies.

Source: IAM User Guide, "IAM JSON policy elements: Resource" (wildcards within the parts of an ARN) and "IAM policy
elements: Variables and tags".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Final

_VARIABLE: Final = re.compile(r"\$\{([^}]+)\}")
_LITERALS: Final = ("*", "?", "$")
"""`${*}`, `${?}` and `${$}` stand for the character itself."""
_QUOTE: Final = "\0"
"""Escapes a literal character in a pattern; neither policies nor requests can contain it."""
_PARTS: Final = 6
"""Parts of an ARN: arn, partition, service, region, account, resource."""
_WILD: Final = {"*": ".*", "?": "."}


def substitute(pattern: str, context: Mapping[str, Sequence[str]]) -> str | None:
    """
    Substitute the policy variables of *pattern* with the request's values; None if the request lacks one of them.

    Substituted values are literal: a `*` in them is not a wildcard.
    """
    if "${" not in pattern:
        return pattern
    missing = False

    def value(found: re.Match[str]) -> str:
        nonlocal missing
        name = found[1]
        if name in _LITERALS:
            return _QUOTE + name
        values = context.get(name.lower(), ())
        missing = missing or len(values) != 1
        return "".join(_QUOTE + character if character in _WILD else character for text in values for character in text)

    result = _VARIABLE.sub(value, pattern)
    return None if missing else result


def text_equals(pattern: str, value: str) -> bool:
    """Whether *value* equals *pattern*, without wildcards."""
    return pattern.replace(_QUOTE, "") == value


def text_matches(pattern: str, value: str) -> bool:
    """Whether *value* matches *pattern*, in which `*` matches any text and `?` one character."""
    return _compiled(pattern).fullmatch(value) is not None


def arn_matches(pattern: str, arn: str) -> bool:
    """
    Whether *arn* matches *pattern*, part by part.

    A wildcard matches within its part only; in the last part, the resource, it also matches colons and slashes.
    """
    if pattern == "*":
        return True
    wanted, given = pattern.split(":", _PARTS - 1), arn.split(":", _PARTS - 1)
    return len(wanted) == len(given) and all(map(text_matches, wanted, given))


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.findall(f"{_QUOTE}.|.", pattern, re.DOTALL)
    return re.compile("".join(_WILD.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)
