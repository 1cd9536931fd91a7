"""
The request check, in the state machine's own language.

`horovod_node.contract.check_request` states the rules in Python for the client; this module states the same rules in
JSONata, generated from the same `REQUEST_FIELDS`, so that a caller of the bare API is refused in the same words before
a cent is spent. A test feeds both the same requests and compares the sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from horovod_node import contract
from horovod_node.contract import RequestField


def problems_expression(*, gpu_step: int, max_gpus: int, max_runtime_seconds: int) -> str:
    """
    Write the JSONata expression whose value says what is wrong with `$states.input`, or is the empty string.

    Args:
        gpu_step: GPUs of the fleet's smallest instance; `gpus` must be a multiple of it.
        max_gpus: GPUs that the fleet can hold.
        max_runtime_seconds: The construct's limit.
    """
    known = [field.name for field in contract.REQUEST_FIELDS]
    fields = ",\n    ".join(_field_check(field) for field in contract.REQUEST_FIELDS)
    limits = ",\n    ".join(_limit_checks(gpu_step, max_gpus, max_runtime_seconds))
    return f"""(
  $request := $states.input;
  $shown := function($v) {{ $type($v) = 'string' ? $v : $string($v) }};
  $address := function($v) {{ $type($v) = 'string' and $contains($v, {_regex(contract.S3_URI_PATTERN)}) }};
  $known := {json.dumps(known)};
  $names := $join($known, ', ');
  $fields := $type($request) != 'object' ? ['the request must be an object, got ' & $shown($request)] : [
    $map(
      $filter($keys($request), function($key) {{ $not($key in $known) }}),
      function($key) {{ "'" & $key & "' is not a field of a request; its fields are " & $names }}
    ),
    {fields}
  ];
  $limits := $count($fields) > 0 ? [] : [
    {limits}
  ];
  $join($append($fields, $limits), '; ')
)"""


def defaults_expression(*, max_runtime_seconds: int) -> str:
    """Write the JSONata expression that completes a valid `$states.input` with the default of every absent field."""
    defaults = {contract.DATA: {}, contract.HYPERPARAMETERS: {}, contract.MAX_RUNTIME_SECONDS: max_runtime_seconds}
    return f"$merge([{json.dumps(defaults)}, $states.input])"


def _field_check(field: RequestField) -> str:
    value = f"$request.{field.name}"
    if field.required:
        missing = f"'{field.name}' is missing ({field.meaning[:-1]})"
        absent = json.dumps(missing)
    else:
        absent = "[]"
    return f"$not($exists({value})) ? {absent} : {_kind_check(field, value)}"


def _kind_check(field: RequestField, value: str) -> str:
    if field.kind == "string":
        check = f"$type({value}) != 'string' ? {_got(field.name, 'must be a string', value)} : "
        if field.s3_uri:
            check += (
                f"$not($address({value})) ? {_got(field.name, 'must be an address like s3://bucket/key', value)} : "
            )
        if field.name == contract.ENTRY_POINT:
            matches = f"$contains({value}, {_regex(contract.ENTRY_POINT_PATTERN)})"
            check += f"$not({matches}) ? {_got(field.name, 'must be a relative path of a .py file', value)} : "
        return check + "[]"
    if field.kind == "whole number":
        return (
            f"($type({value}) != 'number' ? true : {value} != $floor({value})) "
            f"? {_got(field.name, 'must be a whole number', value)} "
            f": {value} < 1 ? {_got(field.name, 'must be at least 1', value)} : []"
        )
    check = f"$type({value}) != 'object' ? {_got(field.name, 'must be an object', value)} : "
    if not field.s3_uri:
        return check + "[]"
    judged = (
        f"$not($contains($key, {_regex(contract.CHANNEL_PATTERN)})) "
        f"? \"'{field.name}' has a channel named \" & $key & \"; use letters, digits, '.', '_' and '-'\" "
        f": $not($address($lookup({value}, $key))) "
        f'? "\'{field.name}." & $key & "\' must be an address like s3://bucket/key, got " '
        f"& $shown($lookup({value}, $key)) : ''"
    )
    sentences = f"$map($keys({value}), function($key) {{ {judged} }})"
    return check + f"$filter({sentences}, function($sentence) {{ $sentence != '' }})"


def _limit_checks(gpu_step: int, max_gpus: int, max_runtime_seconds: int) -> Iterator[str]:
    gpus, runtime = f"$request.{contract.GPUS}", f"$request.{contract.MAX_RUNTIME_SECONDS}"
    too_many = _got(contract.GPUS, f"must be at most {max_gpus}, all that the fleet can hold", gpus)
    uneven = _got(contract.GPUS, f"must be a multiple of {gpu_step}, the GPUs of the smallest instance", gpus)
    yield f"{gpus} > {max_gpus} ? {too_many} : {gpus} % {gpu_step} != 0 ? {uneven} : []"
    too_long = _got(contract.MAX_RUNTIME_SECONDS, f"must be at most {max_runtime_seconds}", runtime)
    yield f"$exists({runtime}) and {runtime} > {max_runtime_seconds} ? {too_long} : []"


def _got(name: str, rule: str, value: str) -> str:
    words = json.dumps(f"'{name}' {rule}, got ")
    return f"{words} & $shown({value})"


def _regex(pattern: str) -> str:
    return "/" + pattern.replace("/", r"\/") + "/"
