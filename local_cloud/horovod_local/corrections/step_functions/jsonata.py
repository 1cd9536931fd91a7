"""
JSONata as Step Functions evaluates it: JSONata 2.0.6 without `$eval`, plus six functions of Step Functions.

`evaluate` evaluates one expression; both the interpreter and tests of single expressions use it.

Source of the rules: AWS Step Functions Developer Guide, "Transforming data with JSONata" and "Passing data between
states with variables".
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import re
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from jsonata import Jsonata
from jsonata.functions import Functions
from jsonata.utils import Utils

from horovod_local.corrections.registry import correction
from horovod_node import contract

_DELIMITED: Final = re.compile(r"^\{%(.*)%\}$", re.DOTALL)

_LARGEST_WHOLE: Final = 2**53
"""Above it, not every whole number is a double."""

_LEAST_WITH_EXPONENT: Final = 10**21
"""From here on ECMA-262 writes numbers with an exponent."""

_HASHES: Final = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
"""Algorithms of `$hash`: Step Functions' name to hashlib's."""


class QueryEvaluationError(ValueError):
    """An expression failed or returned nothing: `States.QueryEvaluationError` in Step Functions."""


def evaluate(expression: str, bindings: Mapping[str, Any]) -> Any:
    """
    Evaluate one JSONata expression as a state of Step Functions would.

    Args:
        expression: The expression, with or without `{%` and `%}` around it.
        bindings:
            Variables by name without `$`, as plain JSON values.
            `{"states": {"input": …, "result": …}}` defines `$states`.

    Raises:
        QueryEvaluationError: If the expression is malformed, fails, or returns nothing or a function.
    """
    delimited = _DELIMITED.match(expression.strip())
    text = (delimited.group(1) if delimited else expression).strip()
    variables = {**_functions(), **{name: _bound(value) for name, value in bindings.items()}}
    try:
        # The operator & always formats numbers with this method, whatever `$string` is bound to.
        Functions.string = staticmethod(_string)
        # Functions of jsonata-python find the current expression in this thread-local variable.
        Jsonata.CURRENT.jsonata = compiled = _compiled(text)
        result = compiled.evaluate(None, variables)
    except QueryEvaluationError:
        raise
    except Exception as error:
        code = getattr(error, "error", None)
        said = f"{code}: {error}" if code else str(error)
        raise QueryEvaluationError(f"threw an error during evaluation. {said}") from error
    if result is None:
        raise QueryEvaluationError("returned nothing (undefined).")
    return _plain(result)


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> Jsonata:
    """Parse an expression, and cache it: parsing the longest one takes five times as long as evaluating it."""
    compiled = Jsonata(text)
    # Otherwise null and undefined both return None, but only undefined is an error.
    compiled.set_output_convert_nulls(False)
    return compiled


def _bound(value: Any) -> Any:
    """Convert a JSON value for jsonata-python, for which None would mean undefined instead of null."""
    return Utils.NULL_VALUE if value is None else _doubles(value)


def _doubles(value: Any) -> Any:
    """Convert large integers to doubles, which are the only numbers of JavaScript's reference implementation."""
    match value:
        case dict():
            return {key: _doubles(item) for key, item in value.items()}
        case list():
            return [_doubles(item) for item in value]
        case int() if abs(value) > _LARGEST_WHOLE:
            try:
                return float(value)
            except OverflowError:
                return math.copysign(math.inf, value)
    return value


def _plain(value: Any) -> Any:
    """Convert a result of jsonata-python to plain JSON values: its sequences, nulls and whole floats."""
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        value = _doubles(value)
        if not math.isfinite(value):
            raise QueryEvaluationError("returned a number out of range.")
        # ECMA-262 writes the digits that distinguish a whole double from others, followed by zeros.
        return int(Decimal(repr(value))) if value == value // 1 and abs(value) < _LEAST_WITH_EXPONENT else value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise QueryEvaluationError("returned an unsupported result type.")


def _functions() -> dict[str, Any]:
    """Return the functions that Step Functions adds or replaces, and a `$eval` that fails."""
    functions = {
        "partition": _partition,
        "range": _range,
        "hash": _hash,
        "random": _random,
        "uuid": _uuid,
        "parse": _parse,
        "eval": _refuse_eval,
        "string": _string,
    }
    return {name: Jsonata.JLambda(function) for name, function in functions.items()}


def _partition(array: Any = None, size: Any = None, *_rest: Any) -> Any:
    items = array if isinstance(array, list) else [array]
    if not isinstance(size, int) or size < 1:
        raise QueryEvaluationError("threw an error during evaluation. $partition needs a chunk size of at least 1.")
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def _range(first: Any = None, last: Any = None, step: Any = None, *_rest: Any) -> Any:
    if not all(isinstance(number, int | float) for number in (first, last, step)) or step == 0:
        raise QueryEvaluationError("threw an error during evaluation. $range needs three numbers, the step not 0.")
    # Unlike Python's range, it includes the last value.
    return [first + index * step for index in range(math.floor((last - first) / step) + 1)]


def _hash(data: Any = None, algorithm: Any = None, *_rest: Any) -> str:
    if not isinstance(data, str) or algorithm not in _HASHES:
        raise QueryEvaluationError(
            f"threw an error during evaluation. $hash needs a string and one of {', '.join(_HASHES)}."
        )
    # Not used for security; Step Functions offers MD5 and SHA-1, too.
    return hashlib.new(_HASHES[algorithm], data.encode(), usedforsecurity=False).hexdigest()


def _random(seed: Any = None, *_rest: Any) -> float:
    # Not used for security; the same seed must give the same number.
    return random.Random(seed).random() if isinstance(seed, int) else random.random()  # noqa: S311


def _uuid(*_rest: Any) -> str:
    return str(uuid.uuid4())


def _parse(text: Any = None, *_rest: Any) -> Any:
    if text is None:
        return None
    try:
        return _bound(json.loads(text))
    except (TypeError, ValueError) as error:
        raise QueryEvaluationError(f"threw an error during evaluation. $parse: {error}") from error


def _string(value: Any = None, prettify: Any = False, *_rest: Any) -> Any:
    """
    Implement `$string`: JSON with numbers of 15 digits, as the reference implementation writes it.

    jsonata-python keeps all digits of numbers in objects, and escapes characters beyond ASCII.
    """
    if value is None:
        return None
    text = contract.jsonata_text(_written(value))
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False) if prettify is True else text


def _written(value: Any) -> Any:
    """Convert to plain JSON values, a function to an empty text."""
    if value is Utils.NULL_VALUE:
        return None
    if isinstance(value, Mapping):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else ""


def _refuse_eval(*_rest: Any) -> Any:
    raise QueryEvaluationError("threw an error during evaluation. Step Functions has no $eval; use $parse.")


@correction(
    moto="evaluates JSONata through a separate Java bridge, and inserts variables into the expression unescaped",
    aws="evaluates JSONata whatever the values contain, and fails with States.QueryEvaluationError",
)
def jsonata_evaluates() -> None:
    from moto.stepfunctions.parser.asl.component.common.string.string_expression import StringJSONata

    def evaluate_body(self: Any, env: Any) -> None:
        try:
            env.stack.append(evaluate(self.expression, _variables(env)))
        except QueryEvaluationError as error:
            raise _failure(env, f"The JSONata expression '{self.expression}' {error}") from error

    StringJSONata._eval_body = evaluate_body


@correction(
    moto="evaluates a state's Output with the variables that its own Assign has just set",
    aws="evaluates every expression of a state with the variables as they were when it was entered",
)
def variables_are_those_at_entry() -> None:
    from moto.stepfunctions.parser.asl.component.state.state import CommonStateField

    evaluate_state = CommonStateField._eval_body

    def evaluate_body(self: Any, env: Any) -> None:
        env.variables_at_entry = _assigned(env)
        evaluate_state(self, env)

    CommonStateField._eval_body = evaluate_body


@correction(
    moto="fails a Choice whose Condition is not a boolean with States.Runtime",
    aws="fails it with States.QueryEvaluationError",
)
def conditions_are_boolean() -> None:
    from moto.stepfunctions.parser.asl.component.state.choice.comparison.comparison import ConditionStringJSONata

    def evaluate_body(self: Any, env: Any) -> None:
        self.string_jsonata.eval(env=env)
        if not isinstance(env.stack[-1], bool):
            raise _failure(
                env,
                f"The JSONata expression '{self.string_jsonata.expression}' returned an unexpected result type. "
                f"Expected 'boolean', got {json.dumps(env.stack[-1])}.",
            )

    ConditionStringJSONata._eval_body = evaluate_body


def _assigned(env: Any) -> dict[str, Any]:
    return {**env.variable_store._outer_scope, **env.variable_store._inner_scope}


def _variables(env: Any) -> dict[str, Any]:
    """Return `$states` and the workflow's variables for an expression of the current state."""
    # A frame that moto opens within a state, for a task's Arguments, was not entered; nothing is assigned in it yet.
    assigned = env.variables_at_entry if hasattr(env, "variables_at_entry") else _assigned(env)
    states = dict(env.states._states_data)
    for name in ("result", "errorOutput"):
        # moto sets absent fields to None; as null they would hide a mistake in an expression.
        if states.get(name) is None:
            states.pop(name, None)
    return {**assigned, "states": states}


def _failure(env: Any, cause: str) -> Exception:
    from moto.stepfunctions.parser.api import EvaluationFailedEventDetails, HistoryEventType
    from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
        FailureEvent,
        FailureEventException,
    )
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
    from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
    from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails

    name = StatesErrorName(typ=StatesErrorNameType.StatesQueryEvaluationError)
    details = EvaluationFailedEventDetails(error=name.error_name, cause=cause, state=env.next_state_name)
    event = FailureEvent(
        env=env,
        error_name=name,
        event_type=HistoryEventType.EvaluationFailed,
        event_details=EventDetails(evaluationFailedEventDetails=details),
    )
    failure: Exception = FailureEventException(event)
    return failure


CORRECTIONS = (jsonata_evaluates, variables_are_those_at_entry, conditions_are_boolean)
