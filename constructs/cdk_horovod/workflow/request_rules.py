"""
The request check in JSONata, for the state machine.

`horovod_node.contract.check_request` has the rules in Python, for clients. This module generates the same rules in
JSONata from the same `REQUEST_FIELDS`, so that a direct caller of StartExecution gets the same messages before anything
is paid for. A test compares the messages of both for the same requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from horovod_node import contract

_BELOW = (r"\u0000-\u007f", r"\u0000-\u07ff", r"\u0000-\ud7ff\ue000-\uffff")
BYTES = " + ".join(("$length($text)", *(f"$length($replace($text, /[{characters}]+/, ''))" for characters in _BELOW)))
"""Expression of the bytes of `$text` in UTF-8: one for each character, plus one from U+0080, U+0800 and U+10000 on."""

_IS_TOO_DEEP = rf"""(
    $brackets := $replace($replace($replace($text, /\\./, ''), /\x22[^\x22]*\x22/, ''), /[^\[\]{{}}]+/, '');
    $length($brackets) > {2 * contract.DEPTH_LIMIT} ? $length($reduce(
      [1..{contract.DEPTH_LIMIT}], function($left, $level) {{ $replace($left, /\[\]|[{{][}}]/, '') }}, $brackets
    )) > 0
  )"""
"""
Expression of whether `$text` is nested too deeply: only its brackets are kept, and the innermost pairs are removed as
often as levels are allowed; nothing may remain. With an initial value, `$reduce` calls the function for each level.
"""


def problems_expression(
    *, fleets: Sequence[contract.FleetSize], max_runtime_seconds: int, max_cost_usd: float | None = None
) -> str:
    """
    Return the JSONata expression of the problems of `$states.input`, as text; '' if it is valid.

    Args:
        fleets: Sizes of the fleets, at least one.
        max_runtime_seconds: The construct's limit in seconds.
        max_cost_usd: The construct's limit in USD. Default: none.
    """
    known = [field.name for field in contract.REQUEST_FIELDS]
    fields = ",\n    ".join(_field_check(field) for field in contract.REQUEST_FIELDS)
    limits = ",\n    ".join(_limit_checks(fleets, max_runtime_seconds, max_cost_usd))
    unusable = " or ".join(f"$contains($characters, {_regex(pattern)})" for pattern in contract.UNUSABLE_TEXT_PATTERNS)
    return f"""(
  $request := $states.input;
  $shown := function($v) {{(
    $text := $type($v) = 'string' ? $v : $string($v);
    $length($text) <= {contract.SHOWN_LIMIT} ? $text
      : $substring($text, 0, {contract.SHOWN_LIMIT}) & '… (' & $length($text) & ' characters)'
  )}};
  $name := $states.context.Execution.Name;
  $text := $string($request);
  $characters := $replace($text, {_regex(contract.SURROGATE_PAIR_PATTERN)}, '');
  $names_taken := {json.dumps([*known, contract.STARTED_BY])};
  $names := {json.dumps(", ".join(known))};
  $fields := ($exists($name) ? $not($contains($name, {_regex(contract.RUN_NAME_PATTERN)})) : false)
      ? [{json.dumps(f"the execution's name {contract.RUN_NAME_RULE}, got ")} & $shown($name)]
    : $type($request) != 'object' ? ['the request must be an object, got ' & $shown($request)]
    : {unusable} ? [{json.dumps(contract.UNUSABLE_TEXT)}]
    : {BYTES} > {contract.REQUEST_LIMIT} ? [{json.dumps(contract.REQUEST_TOO_LARGE)}]
    : {_IS_TOO_DEEP} ? [{json.dumps(contract.REQUEST_TOO_DEEP)}] : [
    $map(
      $filter($keys($request), function($key) {{ $not($key in $names_taken) }}),
      function($key) {{ "'" & $shown($key) & "' is not a field of a request; its fields are " & $names }}
    ),
    {fields}
  ];
  $limits := $count($fields) > 0 ? [] : [
    {limits}
  ];
  $problems := $append($fields, $limits);
  $more := $count($problems) - {contract.PROBLEMS_LIMIT};
  $more <= 0 ? $join($problems, '; ')
    : $join($problems[[0..{contract.PROBLEMS_LIMIT - 1}]], '; ') & '; and ' & $more & ' more'
)"""


def defaults_expression(*, max_runtime_seconds: int, max_restarts: int, max_cost_usd: float | None = None) -> str:
    """
    Return the JSONata expression that completes a valid `$states.input` with the defaults of absent fields.

    Args:
        max_runtime_seconds: The construct's limit in seconds.
        max_restarts: The construct's default.
        max_cost_usd: The construct's limit in USD. Default: none, so a run without a ceiling has none.
    """
    defaults: dict[str, Any] = {
        contract.DATA: {},
        contract.HYPERPARAMETERS: {},
        contract.MAX_RESTARTS: max_restarts,
        contract.MAX_RUNTIME_SECONDS: max_runtime_seconds,
    }
    if max_cost_usd is not None:  # the limit is also the default
        defaults[contract.MAX_COST_USD] = max_cost_usd
    whole = f"{{'{contract.MIN_GPUS}': $states.input.{contract.GPUS}}}"
    asked = f"$sift($states.input, function($value, $key) {{ $key != '{contract.STARTED_BY}' }})"
    return f"$merge([{json.dumps(defaults)}, {whole}, {asked}])"


def _field_check(field: contract.RequestField) -> str:
    value = f"$request.{field.name}"
    if field.required:
        missing = f"'{field.name}' is missing ({field.meaning[:-1]})"
        absent = json.dumps(missing)
    else:
        absent = "[]"
    return f"$not($exists({value})) ? {absent} : {_kind_check(field, value)}"


def _kind_check(field: contract.RequestField, value: str) -> str:
    if field.kind == "string":
        check = f"$type({value}) != 'string' ? {_got(field.name, 'must be a string', value)} : "
        if field.pattern:
            check += f"$not($contains({value}, {_regex(field.pattern)})) ? {_got(field.name, field.rule, value)} : "
        return check + "[]"
    if field.kind == "whole number":
        most = (
            ""
            if field.most is None
            else f"{value} > {field.most} ? {_got(field.name, f'must be at most {field.most}', value)} : "
        )
        return (
            f"($type({value}) != 'number' ? true : {value} != $floor({value})) "
            f"? {_got(field.name, 'must be a whole number', value)} "
            f": {value} < {field.least} ? {_got(field.name, f'must be at least {field.least}', value)} : {most}[]"
        )
    if field.kind == "number":
        return (
            f"$type({value}) != 'number' ? {_got(field.name, 'must be a number', value)} "
            f": {value} <= 0 ? {_got(field.name, 'must be more than 0', value)} : []"
        )
    return f"$type({value}) != 'object' ? {_got(field.name, 'must be an object', value)} : {_items_check(field, value)}"


def _items_check(field: contract.RequestField, value: str) -> str:
    if (rule := field.items) is None:
        return "[]"
    item = f"$lookup({value}, $key)"
    if rule.value_pattern:
        good = f"($type({item}) = 'string' ? $contains({item}, {_regex(rule.value_pattern)}) : false)"
    elif rule.rule:
        good = f"($type({item}) = 'number' ? {item} >= {rule.least} and {item} <= {rule.most} : false)"
    else:
        good = "true"
    judged = (
        f"$not($contains($key, {_regex(rule.pattern)})) "
        f'? "\'{field.name}\' has {rule.noun} named " & $shown($key) & "; {rule.spelling}" '
        f": $not({good}) "
        f'? "\'{field.name}." & $shown($key) & "\' {rule.rule}, got " '
        f"& $shown({item}) : ''"
    )
    sentences = f"$map($keys({value}), function($key) {{ {judged} }})"
    return f"$filter({sentences}, function($sentence) {{ $sentence != '' }})"


def _limit_checks(
    fleets: Sequence[contract.FleetSize], max_runtime_seconds: int, max_cost_usd: float | None
) -> Iterator[str]:
    gpus = f"$request.{contract.GPUS}"
    yield f"{_fits(gpus, fleets)} ? [] : {_got(contract.GPUS, contract.gpus_rule(fleets), gpus)}"
    least = f"$request.{contract.MIN_GPUS}"
    words = json.dumps(f"'{contract.MIN_GPUS}' must be at most '{contract.GPUS}', which is ")
    yield f"$exists({least}) and {least} > {gpus} ? {words} & $shown({gpus}) & ', got ' & $shown({least}) : []"
    inelastic = [fleet for fleet in fleets if not fleet.elastic]
    if inelastic:
        elastic = _fits(gpus, [fleet for fleet in fleets if fleet.elastic])
        before, _, after = contract.inelastic_rule("\0").partition("\0")
        begins, ends = json.dumps(f"'{contract.MIN_GPUS}' {before}"), json.dumps(f"{after}, got ")
        alone = f"{least} < {gpus} and {_fits(gpus, inelastic)} and $not({elastic})"
        yield f"$exists({least}) and {alone} ? {begins} & $shown({gpus}) & {ends} & $shown({least}) : []"
    limits = {contract.MAX_RUNTIME_SECONDS: max_runtime_seconds, contract.MAX_COST_USD: max_cost_usd}
    for name, limit in limits.items():
        if limit is None:
            continue
        value, words = f"$request.{name}", json.dumps(f"'{name}' must be at most ")
        too_much = f"{words} & $shown({limit}) & ', got ' & $shown({value})"
        yield f"$exists({value}) and {value} > {limit} ? {too_much} : []"


def _fits(gpus: str, fleets: Sequence[contract.FleetSize]) -> str:
    tests = (f"({gpus} <= {fleet.max_gpus} and {gpus} % {fleet.gpu_step} = 0)" for fleet in fleets)
    return f"({' or '.join(tests) or 'false'})"


def _got(name: str, rule: str, value: str) -> str:
    words = json.dumps(f"'{name}' {rule}, got ")
    return f"{words} & $shown({value})"


def _regex(pattern: str) -> str:
    """Convert *pattern* to JSONata; `$` must match only the very end, not also before a final newline."""
    end = r"(?![\s\S])"
    return "/" + pattern.replace("/", r"\/").replace("$", end) + "/"
