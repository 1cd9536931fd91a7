"""Numbers and texts as JSONata writes them: client, local cloud and the reference implementation agree to the digit."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node.contract import jsonata_text
from support.asl import by_reference

EXPRESSION = """{
  'same': $value,
  'text': $string($value),
  'joined': '' & $number,
  'sum': $number + 0,
  'equal': $number = $next
}"""
"""What an expression can do to a number: hand it on, write it in two ways, count with it, compare it."""

NUMBERS = [
    *(0, -0.0, 1, -1, 0.1, 1e-6, 1e-7, 1.5e-7, 123456.789, 1e20, 1e21, 1.25e21, 5e-324),
    *(2**53 - 1, 2**53, 2**53 + 1, 1764145000123456789, -1764145000123456789, 10**18 + 1, 10**22, 10**300),
    *(0.1234567890123456, 1 / 3, 0.1 + 0.2, 100000000000000.5, -100000000000000.5, 999999999999999.9),
]
numbers = (
    st.floats(allow_nan=False, allow_infinity=False, max_value=1.79e308, min_value=-1.79e308)
    | st.integers(-(10**25), 10**25)
    | st.integers(10**14, 10**15).map(lambda number: number + 0.5)
    | st.sampled_from(NUMBERS)
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("aé_", max_size=3), inner, max_size=3),
    max_leaves=6,
)


def test_numbers_lose_the_digits_that_step_functions_loses() -> None:
    """The client rounds a number to 15 digits, as a state machine does when it writes JSON."""
    assert jsonata_text({"seed": 1764145000123456789, "rate": 0.1234567890123456}) == (
        '{"seed":1764145000123460000,"rate":0.123456789012346}'
    )


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(values, numbers), min_size=100, max_size=150))
def test_local_cloud_changes_numbers_as_the_reference_does(cases: list[tuple[Any, float]]) -> None:
    """An expression gives a number the same digits in the local cloud as in Step Functions."""
    # GIVEN
    bindings: list[dict[str, Any]] = [
        {"value": [value], "number": number, "next": number + 1} for value, number in cases
    ]
    # WHEN
    theirs = by_reference(bindings, EXPRESSION)
    # THEN
    assert [evaluate(EXPRESSION, each) for each in bindings] == theirs
    assert [jsonata_text(each["value"]) for each in bindings] == [answer["text"] for answer in theirs]
    assert [jsonata_text(each["number"]) for each in bindings] == [answer["joined"] for answer in theirs]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\U0001f600", '\u2028\x7f\b"\\', "é"])
def test_texts_are_written_as_the_reference_writes_them(text: str) -> None:
    """A text keeps its characters, and half of a surrogate pair is escaped."""
    (theirs,) = by_reference([{"value": [text]}], "$string($value)")
    assert jsonata_text([text]) == theirs == evaluate("$string($value)", {"value": [text]})
    assert json.loads(theirs) == [text]
