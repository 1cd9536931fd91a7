"""Reads state machines out of a synthesised template, as plain Amazon States Language for people and linters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from horovod_node import contract

STATE_MACHINE_TYPE = "AWS::StepFunctions::StateMachine"
_WORK: Final = ("Type", "Resource", "Arguments", "Items", "ItemProcessor", "Branches")
"""Fields that say what a state does, as opposed to what follows."""
_NAMES: Final = re.compile(rf"\$\{{[^}}]*\}}|{contract.QUEUE_PREFIX}\w+")
"""Names in a definition that are of one stack."""


def resolved_definitions(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Read every state machine of *template* by logical id, with references as `${LogicalId.Attribute}`.

    Linters cannot read the `Fn::Join` that CDK writes for a definition. Only the partition is substituted, with `aws`,
    because validators recognise a state's resource by the form of its ARN. States are in the order in which a run
    without errors enters them, followed by those that only errors lead to.

    Args:
        template: A CloudFormation template.
    """
    return {
        logical_id: _in_order(json.loads(_text(resource["Properties"]["DefinitionString"])))
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == STATE_MACHINE_TYPE
    }


def by_layer(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Read the three state machines of a template with one training: `run`, `clean-up`, `reaper`.

    Args:
        template: A CloudFormation template.
    """
    layers = {"CleanUpStateMachine": "clean-up", "ReaperStateMachine": "reaper"}
    return {
        next((layer for name, layer in layers.items() if name in logical_id), "run"): definition
        for logical_id, definition in resolved_definitions(template).items()
    }


def own_states(definition: Mapping[str, Any], *, beside: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Select the states that only *definition* has, or that do something else than those of the same name in *beside*.

    What follows a state does not count, and neither do the names of resources and of the queue.

    Args:
        definition: The state machine of a training on one engine.
        beside: The same state machine on another engine.
    """

    def work(state: Mapping[str, Any] | None) -> str:
        return "" if state is None else _NAMES.sub("", json.dumps([state.get(field) for field in _WORK]))

    others = beside["States"]
    return {name: state for name, state in definition["States"].items() if work(state) != work(others.get(name))}


def _in_order(definition: dict[str, Any]) -> dict[str, Any]:
    states: dict[str, dict[str, Any]] = definition["States"]
    met: dict[str, dict[str, Any]] = {}
    # First follow the transitions without errors, then all transitions; states keep the order of their first visit.
    for kinds in (("Next", "Default", "Choices"), ("Next", "Default", "Choices", "Catch")):
        met_now: set[str] = set()
        ahead = [str(definition["StartAt"])]
        while ahead:
            name = ahead.pop(0)
            if name not in met_now:
                met_now.add(name)
                met.setdefault(name, states[name])
                ahead += _targets(states[name], kinds)
    return {**definition, "States": met}


def _targets(state: Mapping[str, Any], kinds: tuple[str, ...]) -> list[str]:
    targets = []
    for kind in kinds:
        ways = state.get(kind, ())
        targets += [ways] if isinstance(ways, str) else [way["Next"] for way in ways]
    return targets


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    if function == "Fn::Join":
        separator, parts = argument
        return str(separator).join(_text(part) for part in parts)
    if argument == "AWS::Partition":
        return "aws"
    if function == "Ref":
        return f"${{{argument}}}"
    if function == "Fn::Sub" and isinstance(argument, str):
        return argument
    if function == "Fn::GetAtt":
        return "${" + ".".join(argument) + "}"
    if function == "Fn::ImportValue":
        return "${" + _text(argument) + "}"
    if function == "Fn::Select":
        position, of = argument
        return f"${{{next(iter(of))}[{position}]}}" if isinstance(of, dict) else _text(of[int(position)])
    raise ValueError(f"'{function}' is not expected in a state machine's definition, got {value}")
