"""
Placement constraints of a user's own, evaluated for the nodes of a fleet before any of them costs money.

They are expressions of the cluster query language (ECS Developer Guide, "Create expressions to define container
instances for Amazon ECS tasks"): comparisons `subject operator argument`, joined by `and`, `or`, `not` and parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cdk_horovod.fleet.gpu_types import GpuInstanceType

MOST_CONSTRAINTS: Final = 9
"""Most constraints of a user's own. A task has at most 10 (ECS API Reference, `RunTask`); the engine adds one."""
MOST_CHARACTERS: Final = 2_000
"""Most characters of an expression (ECS API Reference, `PlacementConstraint`)."""

_NAMES: Final[Mapping[str, str]] = {
    "equals": "==",
    "not_equals": "!=",
    "greater_than": ">",
    "greater_than_equal": ">=",
    "less_than": "<",
    "less_than_equal": "<=",
    "not_exists": "!exists",
    "not_in": "!in",
    "matches": "=~",
    "not_matches": "!~",
    "&&": "and",
    "||": "or",
}
"""Operators that have two spellings."""
_TOKEN: Final = re.compile(
    r"\s*(\(|\)|&&|\|\||!exists\b|!in\b|==|!=|=~|!~|>=|<=|>|<|!|\[[^\]()]*\](?=[\s()]|$)|[^\s()]+)"
)

_Verdict = bool | None
"""Whether an instance matches; None if that is not known before it runs."""


def check_constraints(constraints: Sequence[str], *, instance_types: Sequence[GpuInstanceType]) -> None:
    """
    Refuse constraints that leave out nodes of a fleet, which would boot, cost money, and never get their task.

    Known are an instance's type, operating system and processor. An attribute without ECS's prefix `ecs.` counts as
    missing, because the nodes have none. Whatever else ECS knows, such as zones, is left to ECS.

    Args:
        constraints: Expressions, all of which an instance must match.
        instance_types: Types of the fleet.

    Raises:
        ValueError: If an expression is none, or leaves out a type.
    """
    for text in constraints:
        matches = _Parser(text).whole()
        left_out = [row.name for row in instance_types if matches(_attributes(row)) is False]
        if left_out:
            raise ValueError(
                f"'placement_constraints' must admit each of 'instance_types', got '{text}', which leaves out "
                f"{', '.join(left_out)}"
            )


def check_form(constraints: Sequence[str]) -> tuple[str, ...]:
    """
    Return *constraints*.

    Raises:
        ValueError: If there are too many, one is too long, or one is not an expression of the cluster query language.
    """
    if isinstance(constraints, str):
        raise ValueError(f"'placement_constraints' must be a list of expressions, got the text '{constraints}'")
    if len(constraints) > MOST_CONSTRAINTS:
        raise ValueError(
            f"'placement_constraints' must be at most {MOST_CONSTRAINTS}, got {len(constraints)}; join some with 'and'"
        )
    for text in constraints:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(
                f"'placement_constraints' must have at most {MOST_CHARACTERS} characters each, got {len(text)}"
            )
        _Parser(text).whole()
    return tuple(constraints)


def _attributes(row: GpuInstanceType) -> dict[str, str]:
    """Return the attributes of a node that are known from its type (Developer Guide, "Built-in attributes")."""
    return {"ecs.instance-type": row.name, "ecs.os-type": "linux", "ecs.cpu-architecture": "x86_64"}


class _Parser:
    """
    Reads one expression: `or` binds less than `and`, and that less than `not`.

    Args:
        text: The expression.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = [_NAMES.get(token, token) for token in _TOKEN.findall(text)]

    def whole(self) -> Callable[[Mapping[str, str]], _Verdict]:
        """Return the function that evaluates the expression for the attributes of an instance."""
        matches = self._any()
        if self._tokens:
            raise self._refused()
        return matches

    def _any(self) -> Callable[[Mapping[str, str]], _Verdict]:
        parts = [self._all()]
        while self._next_is("or"):
            parts.append(self._all())
        return lambda instance: _any_of([part(instance) for part in parts])

    def _all(self) -> Callable[[Mapping[str, str]], _Verdict]:
        parts = [self._one()]
        while self._next_is("and"):
            parts.append(self._one())
        return lambda instance: _not(_any_of([_not(part(instance)) for part in parts]))

    def _one(self) -> Callable[[Mapping[str, str]], _Verdict]:
        if self._next_is("not") or self._next_is("!"):
            inner = self._one()
            return lambda instance: _not(inner(instance))
        if self._next_is("("):
            inner = self._any()
            if not self._next_is(")"):
                raise self._refused()
            return inner
        return self._comparison()

    def _comparison(self) -> Callable[[Mapping[str, str]], _Verdict]:
        subject, operator = self._take(r"[\w:.\-/]+"), self._take(r"==|!=|[<>]=?|!?exists|!?in|=~|!~")
        if operator.endswith("exists"):
            argument = ""
        else:
            argument = self._take(r"\[.*\]" if operator.endswith("in") else r"[^()]+")
        name = subject.removeprefix("attribute:")
        if name == subject or operator in (">", ">=", "<", "<="):
            # A subject that is not an attribute, or an order, which no attribute of a node has.
            return lambda instance: None  # noqa: ARG005
        return lambda instance: _compare(instance.get(name), operator, argument, known=not name.startswith("ecs."))

    def _take(self, pattern: str) -> str:
        if not self._tokens or not re.fullmatch(pattern, self._tokens[0]):
            raise self._refused()
        return self._tokens.pop(0)

    def _next_is(self, token: str) -> bool:
        found = bool(self._tokens) and self._tokens[0].lower() == token
        if found:
            self._tokens.pop(0)
        return found

    def _refused(self) -> ValueError:
        return ValueError(
            "'placement_constraints' must be expressions of the cluster query language, such as "
            f"'attribute:ecs.instance-type =~ p3.*', got '{self._text}'"
        )


def _compare(value: str | None, operator: str, argument: str, *, known: bool) -> _Verdict:
    """
    Compare an attribute's value.

    Args:
        value: The value; None if there is none, or if it is not known.
        operator: The operator, in its short spelling.
        argument: The argument.
        known: Whether a missing value means that the instance has no such attribute.
    """
    if value is None:
        if not known:
            return None
        # The guide does not say whether an instance without the attribute differs from a value.
        return {"exists": False, "!exists": True, "==": False, "in": False, "=~": False}.get(operator)
    match operator.removeprefix("!"):
        case "exists":
            found = True
        case "in":
            found = value in [each.strip() for each in argument[1:-1].split(",")]
        case "==" | "=":
            found = value == argument
        case _:  # "=~" or "~"
            try:
                # "Conforms to the Java regular expression syntax": the whole value, as `Matcher.matches` does.
                found = re.fullmatch(argument, value) is not None
            except re.error:
                return None
    return found is not operator.startswith("!")


def _any_of(verdicts: Sequence[_Verdict]) -> _Verdict:
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _not(verdict: _Verdict) -> _Verdict:
    return None if verdict is None else not verdict
