"""The rules of a request in Python, and in words; the state machine has the same rules in JSONata."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from horovod_node.contract.attributes import GPUS
from horovod_node.contract.request import (
    ENTRY_POINT,
    ENTRY_POINT_PATTERN,
    MAX_COST_USD,
    MAX_RUNTIME_SECONDS,
    MIN_GPUS,
    OWNER,
    PROBLEMS_LIMIT,
    PROJECT,
    REQUEST_FIELDS,
    REQUEST_LIMIT,
    REQUEST_TOO_LARGE,
    RESUME_FROM,
    RUN_NAME_PATTERN,
    RUN_NAME_RULE,
    S3_URI_PATTERN,
    S3_URI_RULE,
    SHOWN_LIMIT,
    STARTED_BY,
    UNUSABLE_TEXT,
    UNUSABLE_TEXT_PATTERNS,
    ItemRule,
    RequestField,
)
from horovod_node.contract.tags import TAG_PATTERN, TAG_RULE


@dataclass(frozen=True, kw_only=True)
class FleetSize:
    """
    What a fleet can hold.

    Args:
        max_gpus: GPUs that the fleet can hold.
        gpu_step: GPUs of its smallest instance; a run's GPUs must be a multiple of it.
    """

    max_gpus: int
    gpu_step: int

    def fits(self, gpus: float) -> bool:
        """Whether a run of *gpus* GPUs can have this fleet."""
        return gpus <= self.max_gpus and gpus % self.gpu_step == 0


def gpus_rule(fleets: Sequence[FleetSize]) -> str:
    """Say which numbers of GPUs a run may ask for."""
    sizes = dict.fromkeys(f"a multiple of {fleet.gpu_step} up to {fleet.max_gpus}" for fleet in fleets)
    return "must be " + " or ".join(sizes)


def check_request(
    request: Any,
    *,
    fleets: Sequence[FleetSize],
    max_runtime_seconds: int,
    max_cost_usd: float | None = None,
    name: str | None = None,
) -> list[str]:
    """
    List what is wrong with *request*, in the words that the state machine uses; empty when nothing is.

    The state machine runs the same rules in JSONata (`cdk_horovod.workflow.request`); a test feeds both the same
    requests and compares the sentences.

    Args:
        request: The execution's input.
        fleets: The fleets that the run may get, at least one.
        max_runtime_seconds: The construct's limit.
        max_cost_usd: The construct's limit. Default: none.
        name: The execution's name. Default: it is not checked.
    """
    if name is not None and not re.fullmatch(RUN_NAME_PATTERN, name):
        return [f"the execution's name {RUN_NAME_RULE}, got {_shown(name)}"]
    if not isinstance(request, dict):
        return [f"the request must be an object, got {_shown(request)}"]
    text = _text(request)
    if any(re.search(pattern, text) for pattern in UNUSABLE_TEXT_PATTERNS):
        return [UNUSABLE_TEXT]
    if len(text.encode()) > REQUEST_LIMIT:
        return [REQUEST_TOO_LARGE]
    problems = _problems(request, fleets=fleets, max_runtime_seconds=max_runtime_seconds, max_cost_usd=max_cost_usd)
    more = len(problems) - PROBLEMS_LIMIT
    return problems if more <= 0 else [*problems[:PROBLEMS_LIMIT], f"and {more} more"]


def _problems(
    request: dict[str, Any], *, fleets: Sequence[FleetSize], max_runtime_seconds: int, max_cost_usd: float | None
) -> list[str]:
    known = [field.name for field in REQUEST_FIELDS]
    problems = [
        f"'{_shown(name)}' is not a field of a request; its fields are {', '.join(known)}"
        for name in request
        if name not in known and name != STARTED_BY
    ]
    for field in REQUEST_FIELDS:
        if field.name not in request:
            if field.required:
                problems.append(f"'{field.name}' is missing ({field.meaning[:-1]})")
            continue
        problems += _check_field(field, request[field.name])
    if problems:
        return problems
    gpus = request[GPUS]
    if not any(fleet.fits(gpus) for fleet in fleets):
        problems.append(f"'{GPUS}' {gpus_rule(fleets)}, got {_shown(gpus)}")
    least = request.get(MIN_GPUS, gpus)
    if least > gpus:
        problems.append(f"'{MIN_GPUS}' must be at most 'gpus', which is {_shown(gpus)}, got {_shown(least)}")
    limits = {MAX_RUNTIME_SECONDS: max_runtime_seconds, MAX_COST_USD: max_cost_usd}
    for name, limit in limits.items():
        if limit is not None and request.get(name, 0) > limit:
            problems.append(f"'{name}' must be at most {_shown(limit)}, got {_shown(request[name])}")
    return problems


def _check_field(field: RequestField, value: Any) -> list[str]:
    if field.kind == "string":
        if not isinstance(value, str):
            return [f"'{field.name}' must be a string, got {_shown(value)}"]
        if field.s3_uri and not re.fullmatch(S3_URI_PATTERN, value):
            return [f"'{field.name}' {S3_URI_RULE}, got {_shown(value)}"]
        if field.name == RESUME_FROM and not re.fullmatch(RUN_NAME_PATTERN, value):
            return [f"'{field.name}' must be a run's name, got {_shown(value)}"]
        if field.name in (OWNER, PROJECT) and not re.fullmatch(TAG_PATTERN, value):
            return [f"'{field.name}' {TAG_RULE}, got {_shown(value)}"]
        if field.name == ENTRY_POINT and not re.fullmatch(ENTRY_POINT_PATTERN, value):
            return [f"'{field.name}' must be a relative path of a .py file, got {_shown(value)}"]
        return []
    if field.kind == "whole number":
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0:
            return [f"'{field.name}' must be a whole number, got {_shown(value)}"]
        if value < field.least:
            return [f"'{field.name}' must be at least {field.least}, got {_shown(value)}"]
        if field.most is not None and value > field.most:
            return [f"'{field.name}' must be at most {field.most}, got {_shown(value)}"]
        return []
    if field.kind == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            return [f"'{field.name}' must be a number, got {_shown(value)}"]
        if value <= 0:
            return [f"'{field.name}' must be more than 0, got {_shown(value)}"]
        return []
    if not isinstance(value, dict):
        return [f"'{field.name}' must be an object, got {_shown(value)}"]
    if (rule := field.items) is None:
        return []
    problems = []
    for key, item in value.items():
        if not re.fullmatch(rule.pattern, key):
            problems.append(f"'{field.name}' has {rule.noun} named {_shown(key)}; {rule.spelling}")
        elif not _is_good(item, rule):
            problems.append(f"'{field.name}.{_shown(key)}' {rule.rule}, got {_shown(item)}")
    return problems


def _is_good(item: Any, rule: ItemRule) -> bool:
    if not rule.rule:
        return True
    if rule.least is None or rule.most is None:
        return isinstance(item, str) and re.fullmatch(S3_URI_PATTERN, item) is not None
    return isinstance(item, int | float) and not isinstance(item, bool) and rule.least <= item <= rule.most


def _shown(value: Any) -> str:
    """Write the beginning of *value*."""
    text = _text(value)
    return text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}… ({len(text)} characters)"


def _text(value: Any) -> str:
    """Write *value* as JSONata's `$string` does: strings bare, everything else as compact JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(_numbered(value), separators=(",", ":"), ensure_ascii=False)
    except (RecursionError, ValueError):  # nested, or a whole number of more digits, than Python writes
        return "a value too large to show"


def _numbered(value: Any) -> Any:
    """JSONata knows one kind of number, and writes 16.0 as 16."""
    if isinstance(value, dict):
        return {key: _numbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbered(item) for item in value]
    return int(value) if isinstance(value, float) and value % 1 == 0 and abs(value) < 1e15 else value
