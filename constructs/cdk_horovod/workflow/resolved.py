"""The state machine as people and linters read it: plain Amazon States Language, out of a synthesised template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

STATE_MACHINE_TYPE = "AWS::StepFunctions::StateMachine"


def resolved_definitions(template: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Read every state machine of *template* by logical id, with `${LogicalId.Attribute}` where CloudFormation fills in.

    Only the partition is filled in, with `aws`: a validator knows a state by the form of its ARN.

    CDK writes a definition as one string joined from pieces, in which linters see nothing.

    Args:
        template: A CloudFormation template.
    """
    return {
        logical_id: json.loads(_text(resource["Properties"]["DefinitionString"]))
        for logical_id, resource in template["Resources"].items()
        if resource["Type"] == STATE_MACHINE_TYPE
    }


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
    if function == "Fn::GetAtt":
        return "${" + ".".join(argument) + "}"
    if function == "Fn::ImportValue":
        return "${" + _text(argument) + "}"
    raise ValueError(f"'{function}' is not expected in a state machine's definition, got {value}")
