"""User data as CloudFormation gets it: tokens resolved inside the shell script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_logs as logs

from cdk_horovod.engines.user_data import node_user_data
from horovod_node import contract

pytestmark = pytest.mark.synth

ENVIRONMENT = {contract.ENV_FLEET: "c8a1", contract.ENV_LEASE_SECONDS: "600"}


def deployed(value: Any, names: Mapping[str, str]) -> str:
    """Evaluate a resolved template value as CloudFormation would, where *names* has what each Ref gives."""
    match value:
        case str(text):
            return text
        case {"Ref": str(name)}:
            return names[name]
        case {"Fn::GetAtt": [str(name), "Arn"]}:
            return f"arn:aws:ecr:eu-west-1:123456789012:repository/{names[name]}"
        case {"Fn::Join": [str(separator), parts]}:
            return separator.join(deployed(part, names) for part in parts)
        case {"Fn::Select": [index, {"Fn::Split": [separator, text]}]}:
            return deployed(text, names).split(separator)[int(index)]
    raise AssertionError(f"not a value that this test knows: {value}")


def test_deployed_script_is_the_one_rendered_from_plain_values() -> None:
    """With every token resolved, the script is what plain values would have given, character by character."""
    # GIVEN an image, a log group and a region that only a deployment knows
    stack = Stack(App(), "Test")
    group = logs.LogGroup(stack, "Group")
    repository = ecr.Repository(stack, "Repository")

    # WHEN
    user_data = ec2.UserData.for_linux()
    user_data.add_commands(
        *node_user_data(
            image_uri=repository.repository_uri_for_tag("1"),
            environment=ENVIRONMENT | {contract.ENV_LEDGER_TABLE: group.log_group_name, "AWS_REGION": stack.region},
            log_group_name=group.log_group_name,
        )
    )

    # THEN
    names = {
        "AWS::AccountId": "123456789012",
        "AWS::Region": "eu-west-1",
        "AWS::URLSuffix": "amazonaws.com",
        stack.resolve(group.log_group_name)["Ref"]: "nodes-1AB",
        stack.resolve(repository.repository_name)["Ref"]: "images-2CD",
    }
    plain = node_user_data(
        image_uri="123456789012.dkr.ecr.eu-west-1.amazonaws.com/images-2CD:1",
        environment=ENVIRONMENT | {contract.ENV_LEDGER_TABLE: "nodes-1AB", "AWS_REGION": "eu-west-1"},
        log_group_name="nodes-1AB",
    )
    assert deployed(stack.resolve(user_data.render()), names).splitlines() == ["#!/bin/bash", *plain]
