"""
The cluster query language: expressions that select container instances.

Source: Amazon ECS Developer Guide, "Create expressions to define container instances for Amazon ECS tasks". Supported
are `==`, `in [...]`, `=~`, `exists` and `!exists`, under either of their names, joined by `and`, `or`, `not` and
parentheses. Every other operator or subject is refused, so that no expression is evaluated wrongly.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Final

ATTRIBUTE: Final = "attribute:"
"""Prefix of the subjects that are attributes of the container instance."""

_TOKEN: Final = re.compile(r"\s*(\(|\)|\[[^\]]*\]|&&|\|\||!(?![a-z~=])|[^\s()\[][^\s()]*)")
_OPERATORS: Final = {
    "==": "==",
    "equals": "==",
    "in": "in",
    "=~": "=~",
    "matches": "=~",
    "exists": "exists",
    "!exists": "!exists",
    "not_exists": "!exists",
}
_AND: Final = ("and", "&&")
_OR: Final = ("or", "||")
_NOT: Final = ("not", "!")

Test = Callable[[Mapping[str, str]], bool]
"""Whether a container instance is selected, given by the values of its subjects."""


class QueryError(Exception):
    """An expression has an error, or a part that is not supported; the message names the expression."""


@functools.lru_cache(maxsize=1024)
def compile_query(expression: str, *, subjects: tuple[str, ...] = ()) -> Test:
    """
    Compile an expression.

    Args:
        expression: The expression.
        subjects: Subjects that may be used beside attributes, such as `agentConnected`. Default: none.

    Raises:
        QueryError: If the expression cannot be parsed, or uses what is not supported.
    """
    parser = _Parser(expression, subjects)
    test = parser.any_of()
    if parser.next is not None:
        raise parser.error(f"unexpected '{parser.next}'")
    return test


class _Parser:
    """A recursive descent parser; `next` is the next token, and None at the end."""

    def __init__(self, expression: str, subjects: tuple[str, ...]) -> None:
        self._expression = expression
        self._subjects = subjects
        self._tokens: list[str] = []
        at = 0
        while rest := expression[at:].strip():
            found = _TOKEN.match(expression, at)
            if found is None:
                raise self.error(f"cannot read '{rest}'")
            self._tokens.append(found[1])
            at = found.end()

    @property
    def next(self) -> str | None:
        return self._tokens[0] if self._tokens else None

    def error(self, why: str) -> QueryError:
        return QueryError(f"the local cloud cannot evaluate the expression '{self._expression}': {why}")

    def any_of(self) -> Test:
        tests = [self._all_of()]
        while self.next in _OR:
            self._take()
            tests.append(self._all_of())
        return lambda values: any(test(values) for test in tests)

    def _all_of(self) -> Test:
        tests = [self._one()]
        while self.next in _AND:
            self._take()
            tests.append(self._one())
        return lambda values: all(test(values) for test in tests)

    def _one(self) -> Test:
        if self.next in _NOT:
            self._take()
            negated = self._one()
            return lambda values: not negated(values)
        if self.next == "(":
            self._take()
            inner = self.any_of()
            if self._take() != ")":
                raise self.error("a parenthesis is not closed")
            return inner
        return self._comparison()

    def _comparison(self) -> Test:
        subject = self._take()
        if not subject.startswith(ATTRIBUTE) and subject not in self._subjects:
            raise self.error(f"the subject '{subject}' is not supported")
        written = self._take()
        operator = _OPERATORS.get(written)
        match operator:
            case "exists" | "!exists":
                return lambda values: (subject in values) == (operator == "exists")
            case "in":
                listed = {self._plain(item) for item in self._list()}
                return lambda values: values.get(subject) in listed
            case "==":
                wanted = self._plain(self._take())
                return lambda values: values.get(subject) == wanted
            case "=~":
                # The language has the patterns of Java; those that differ from Python's are not used here.
                try:
                    pattern = re.compile(self._plain(self._take()))
                except re.error as error:
                    raise self.error(f"not a regular expression: {error}") from error
                return lambda values: subject in values and pattern.fullmatch(values[subject]) is not None
        raise self.error(f"the operator '{written}' is not supported")

    def _list(self) -> list[str]:
        text = self._take()
        if not text.startswith("["):
            raise self.error(f"'in' needs a list in brackets, got '{text}'")
        return [item for item in (part.strip() for part in text[1:-1].split(",")) if item]

    def _plain(self, argument: str) -> str:
        """Remove quotes; an argument may have them, as in an example of the guide."""
        if argument[:1] in "'\"" and argument[:1] == argument[-1:] and len(argument) > 1:
            return argument[1:-1]
        return argument

    def _take(self) -> str:
        if not self._tokens:
            raise self.error("it ends too early")
        return self._tokens.pop(0)
