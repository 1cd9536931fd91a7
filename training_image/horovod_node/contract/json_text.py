"""JSON text as the state machines write it: JSONata's `$string`, with the digits that it drops."""

from __future__ import annotations

import json
import math
import re
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, Final

_DIGITS: Final = 15
"""
Significant digits of a number: `$string` calls `toPrecision(15)` in JSONata 2.0.6 (`jsonata.js`), the release that Step
Functions uses (Developer Guide, "Transforming data with JSONata").
"""
_HALF: Final = re.compile(r"[\ud800-\udfff]")
_ROUNDED: Final = Context(prec=_DIGITS, rounding=ROUND_HALF_UP, Emin=-400, Emax=400)


def jsonata_text(value: Any) -> str:
    """
    Write *value* as JSONata's `$string` does: a string without quotes, everything else as compact JSON.

    Characters are not escaped, except half of a surrogate pair (ECMA-262, QuoteJSONString). All numbers are doubles,
    written with 15 digits.

    Raises:
        OverflowError: If a number is too large for a double.
        RecursionError: If *value* is nested more deeply than Python's `json` writes.
        ValueError: If a number is not finite.
    """
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{_json(str(key))}:{_json(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(_json(item) for item in value) + "]"
        case str():
            return _HALF.sub(lambda half: f"\\u{ord(half[0]):x}", json.dumps(value, ensure_ascii=False))
        case bool() | None:
            return json.dumps(value)
        case int() | float():
            return _number(float(value))
    raise TypeError(f"'{type(value).__name__}' is no type of JSON")


def _number(value: float) -> str:
    """Round to 15 digits and write the result as JavaScript does (ECMA-262, `Number::toString`)."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    kept = float(_ROUNDED.create_decimal(Decimal(value)))
    if math.isinf(kept):  # the largest doubles, rounded up: `JSON.stringify` writes no infinity
        return "null"
    if kept == 0:
        return "0"
    sign, all_digits, exponent = Decimal(repr(kept)).as_tuple()
    digits = "".join(map(str, all_digits)).rstrip("0")
    point = len(all_digits) + int(exponent)  # digits before the decimal point
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{point - 1:+d}"
    return "-" + text if sign else text
