"""
JSONata as Step Functions evaluates it (JSONata 2.0.6 without `$eval`, plus six functions of its own).

`evaluate` is the whole language in one function, for the interpreter and for tests of single expressions.

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
"""Beyond it a double does not hold every whole number."""

_LEAST_WITH_EXPONENT: Final = 10**21

_HASHES: Final = {"MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512"}
"""Algorithms of `$hash`, as Step Functions spells them, and hashlib's names."""


class QueryEvaluationError(ValueError):
    """An expression failed or gave nothing; Step Functions reports it as `States.QueryEvaluationError`."""


def evaluate(expression: str, bindings: Mapping[str, Any]) -> Any:
    """
    Evaluate one JSONata expression as a state of Step Functions would.

    Args:
        expression: With or without the `{%` and `%}` around it.
        bindings:
            Variables by name without the `$`, as plain JSON values.
            `{"states": {"input": …, "result": …}}` gives the expression its `$states`.

    Raises:
        QueryEvaluationError: If the expression is wrong, fails, or gives nothing or a function.
    """
    delimited = _DELIMITED.match(expression.strip())
    text = (delimited.group(1) if delimited else expression).strip()
    variables = {**_functions(), **{name: _bound(value) for name, value in bindings.items()}}
    try:
        # The operator & writes numbers with this one, whatever is bound as $string.
        Functions.string = staticmethod(_string)
        # Its functions find their expression by this name, which belongs to the thread.
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
    """Read an expression once: of the longest, reading takes five times as long as evaluating."""
    compiled = Jsonata(text)
    # Without this both null and undefined come back as None, and undefined must be an error.
    compiled.set_output_convert_nulls(False)
    return compiled


def _bound(value: Any) -> Any:
    """JSON's null as jsonata-python knows it; as None the variable would count as undefined."""
    return Utils.NULL_VALUE if value is None else _doubles(value)


def _doubles(value: Any) -> Any:
    """Numbers as JavaScript has them, in which the reference implementation is written: of one kind, a double."""
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
    """Turn a result of jsonata-python into plain JSON values; sequences and whole floats are its own."""
    if value is None or value is Utils.NULL_VALUE:
        return None
    if isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        value = _doubles(value)
        if not math.isfinite(value):
            raise QueryEvaluationError("returned a number out of range.")
        # A whole number is written with the digits that tell it from other doubles, and with zeros (ECMA-262).
        return int(Decimal(repr(value))) if value == value // 1 and abs(value) < _LEAST_WITH_EXPONENT else value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise QueryEvaluationError("returned an unsupported result type.")


def _functions() -> dict[str, Any]:
    """What Step Functions adds to JSONata, and `$eval`, which it takes away."""
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
    # Unlike Python's range, the last value is part of it.
    return [first + index * step for index in range(math.floor((last - first) / step) + 1)]


def _hash(data: Any = None, algorithm: Any = None, *_rest: Any) -> str:
    if not isinstance(data, str) or algorithm not in _HASHES:
        raise QueryEvaluationError(
            f"threw an error during evaluation. $hash needs a string and one of {', '.join(_HASHES)}."
        )
    # Not for security: it names things, and Step Functions offers MD5 and SHA-1 too.
    return hashlib.new(_HASHES[algorithm], data.encode(), usedforsecurity=False).hexdigest()


def _random(seed: Any = None, *_rest: Any) -> float:
    # Not for security either; with a seed the number must be the same each time.
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
    Write JSON as the reference implementation does, with the digits that it drops.

    jsonata-python keeps all digits of numbers inside of objects, and escapes all but ASCII's characters.
    """
    if value is None:
        return None
    text = contract.jsonata_text(_written(value))
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False) if prettify is True else text


def _written(value: Any) -> Any:
    """Plain JSON values, with an empty text for a function."""
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
    moto="evaluates JSONata through a Java bridge that is not part of it, and pastes variables into the text unescaped",
    aws="evaluates JSONata, whatever the values contain, and fails with States.QueryEvaluationError",
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
    moto="lets a state's Output see what its own Assign has just assigned",
    aws="reads every variable of a state as it was when the state was entered",
)
def variables_are_those_at_entry() -> None:
    from moto.stepfunctions.parser.asl.component.state.state import CommonStateField

    evaluate_state = CommonStateField._eval_body

    def evaluate_body(self: Any, env: Any) -> None:
        env.variables_at_entry = _assigned(env)
        evaluate_state(self, env)

    CommonStateField._eval_body = evaluate_body


@correction(
    moto="fails a Choice whose Condition is no boolean with States.Runtime",
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
    """`$states` and the workflow's variables, as an expression of the state being evaluated sees them."""
    # A frame that moto opens inside a state (for a task's Arguments) has no entry of its own; nothing is assigned yet.
    assigned = env.variables_at_entry if hasattr(env, "variables_at_entry") else _assigned(env)
    states = dict(env.states._states_data)
    for name in ("result", "errorOutput"):
        # moto sets None where the field does not exist; as null it would hide a mistake.
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
