"""The rules of a request, in Python. The state machine has the same rules in JSONata."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horovod_node.contract.attributes import GPUS
from horovod_node.contract.json_text import jsonata_text
from horovod_node.contract.request import (
    DEPTH_LIMIT,
    MAX_COST_USD,
    MAX_RUNTIME_SECONDS,
    MIN_GPUS,
    PROBLEMS_LIMIT,
    REQUEST_FIELDS,
    REQUEST_LIMIT,
    REQUEST_TOO_DEEP,
    REQUEST_TOO_LARGE,
    RUN_NAME_PATTERN,
    RUN_NAME_RULE,
    SHOWN_LIMIT,
    STARTED_BY,
    UNUSABLE_NUMBER,
    UNUSABLE_TEXT,
    UNUSABLE_TEXT_PATTERNS,
    ItemRule,
    RequestField,
)


@dataclass(frozen=True, kw_only=True)
class FleetSize:
    """
    The sizes of runs that fit a fleet.

    Args:
        max_gpus: Most GPUs of the fleet.
        gpu_step: GPUs of the fleet's smallest instance; a run's GPUs must be a multiple of it.
        elastic: Whether nodes can come and go while a ring trains. Default: they can.
    """

    max_gpus: int
    gpu_step: int
    elastic: bool = True

    def fits(self, gpus: float) -> bool:
        """Whether a run of *gpus* GPUs fits this fleet."""
        return gpus <= self.max_gpus and gpus % self.gpu_step == 0


def gpus_rule(fleets: Sequence[FleetSize]) -> str:
    """Describe the numbers of GPUs that a run may request."""
    sizes = dict.fromkeys(f"a multiple of {fleet.gpu_step} up to {fleet.max_gpus}" for fleet in fleets)
    return "must be " + " or ".join(sizes)


def inelastic_rule(gpus: str) -> str:
    """Tell why a run of *gpus* GPUs must have as many from its start to its end."""
    return f"must be absent or {gpus}, because nodes of the fleets that fit start and end together"


def check_request(
    request: Any,
    *,
    fleets: Sequence[FleetSize],
    max_runtime_seconds: int,
    max_cost_usd: float | None = None,
    name: str | None = None,
    unknown: Collection[str] = (),
) -> list[str]:
    """
    List the problems of *request*, in the same sentences as the state machine; the list is empty if there are none.

    The state machine runs the same rules in JSONata (`cdk_horovod.workflow.request_rules`); a test feeds both the same
    requests and compares the sentences.

    Args:
        request: The execution's input.
        fleets: Sizes of the fleets that the run may get, at least one.
        max_runtime_seconds: The construct's limit.
        max_cost_usd: The construct's limit. Default: none.
        name: The execution's name. Default: the name is not checked.
        unknown: Fields that *request* leaves out because their values are not known yet. Default: none.
    """
    if name is not None and not re.fullmatch(RUN_NAME_PATTERN, name):
        return [f"the execution's name {RUN_NAME_RULE}, got {_shown(name)}"]
    try:
        text = jsonata_text(request)
        as_written = json.dumps(request, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return [REQUEST_TOO_DEEP]
    except (OverflowError, ValueError):
        return [UNUSABLE_NUMBER]
    if not isinstance(request, dict):
        return [f"the request must be an object, got {_shown(request)}"]
    if any(re.search(pattern, text) for pattern in UNUSABLE_TEXT_PATTERNS):
        return [UNUSABLE_TEXT]
    if max(len(text.encode()), len(as_written.encode())) > REQUEST_LIMIT:
        return [REQUEST_TOO_LARGE]
    if _is_deeper(request, than=DEPTH_LIMIT):
        return [REQUEST_TOO_DEEP]
    limits = {MAX_RUNTIME_SECONDS: max_runtime_seconds, MAX_COST_USD: max_cost_usd}
    problems = _problems(request, fleets=fleets, limits=limits, unknown=unknown)
    more = len(problems) - PROBLEMS_LIMIT
    return problems if more <= 0 else [*problems[:PROBLEMS_LIMIT], f"and {more} more"]


def _problems(
    request: dict[str, Any],
    *,
    fleets: Sequence[FleetSize],
    limits: Mapping[str, float | None],
    unknown: Collection[str],
) -> list[str]:
    known = [field.name for field in REQUEST_FIELDS]
    problems = [
        f"'{_shown(name)}' is not a field of a request; its fields are {', '.join(known)}"
        for name in (*request, *unknown)
        if name not in known and name != STARTED_BY
    ]
    for field in REQUEST_FIELDS:
        if field.name in request:
            problems += _check_field(field, request[field.name])
        elif field.required and field.name not in unknown:
            problems.append(f"'{field.name}' is missing ({field.meaning[:-1]})")
    if problems:
        return problems
    if GPUS in request:
        problems += _check_size(request[GPUS], request.get(MIN_GPUS, request[GPUS]), fleets)
    for name, limit in limits.items():
        if limit is not None and request.get(name, 0) > limit:
            problems.append(f"'{name}' must be at most {_shown(limit)}, got {_shown(request[name])}")
    return problems


def _check_size(gpus: float, least: float, fleets: Sequence[FleetSize]) -> Iterator[str]:
    fitting = [fleet for fleet in fleets if fleet.fits(gpus)]
    if not fitting:
        yield f"'{GPUS}' {gpus_rule(fleets)}, got {_shown(gpus)}"
    if least > gpus:
        yield f"'{MIN_GPUS}' must be at most 'gpus', which is {_shown(gpus)}, got {_shown(least)}"
    if least < gpus and fitting and not any(fleet.elastic for fleet in fitting):
        yield f"'{MIN_GPUS}' {inelastic_rule(_shown(gpus))}, got {_shown(least)}"


def _check_field(field: RequestField, value: Any) -> list[str]:
    if field.kind == "string":
        if not isinstance(value, str):
            return [f"'{field.name}' must be a string, got {_shown(value)}"]
        if field.pattern and not re.fullmatch(field.pattern, value):
            return [f"'{field.name}' {field.rule}, got {_shown(value)}"]
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
    if rule.value_pattern:
        return isinstance(item, str) and re.fullmatch(rule.value_pattern, item) is not None
    return isinstance(item, int | float) and not isinstance(item, bool) and rule.least <= item <= rule.most


def _is_deeper(value: Any, *, than: int) -> bool:
    level = [value]
    for _ in range(than):
        level = [inner for outer in level for inner in _containers_in(outer)]
    return bool(level)


def _containers_in(value: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return (inner for inner in (value.values() if isinstance(value, dict) else value) if isinstance(inner, dict | list))


def _shown(value: Any) -> str:
    """Write *value*, cut to `SHOWN_LIMIT` characters."""
    text = jsonata_text(value)
    return text if len(text) <= SHOWN_LIMIT else f"{text[:SHOWN_LIMIT]}… ({len(text)} characters)"
