"""The app in AWS's partitions, and the sizes that AWS takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.resolved import by_layer
from support.synthesis import REPOSITORY

pytestmark = [pytest.mark.synth, pytest.mark.every_engine]

CONSTRUCTS = REPOSITORY / "constructs"
KIB = 1024


def texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in value.items():
                yield from texts(key)
                yield from texts(item)
        case list():
            for item in value:
                yield from texts(item)


def test_no_construct_names_a_partition() -> None:
    """The constructs' ARNs contain CDK's token, because China and GovCloud are partitions of their own."""
    found = [
        f"{path.name}: {line.strip()}"
        for path in CONSTRUCTS.rglob("*")
        if path.suffix in (".py", ".sh")
        for line in path.read_text().splitlines()
        if re.search(r"arn:aws[a-z-]*:", line)
    ]
    assert found == []


def test_no_template_names_a_partition(assembly: Path) -> None:
    """The templates name no partition, so that they deploy into aws, aws-cn and aws-us-gov."""
    found = [
        text
        for path in assembly.glob("*.template.json")
        for text in texts(json.loads(path.read_text()))
        if re.search(r"arn:aws[a-z-]*:", text)
    ]
    assert found == []


def of_type(template: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name: each["Properties"] for name, each in template["Resources"].items() if each["Type"] == kind}


def length(value: Any) -> int:
    """Count the characters of a text whose tokens CloudFormation resolves, each to no more than 80 of them."""
    match value:
        case str():
            return len(value)
        case {"Fn::Join": [separator, parts]}:
            return sum(map(length, parts)) + len(separator) * (len(parts) - 1)
        case {"Fn::Base64": text}:
            return length(text)
    return 80


def test_templates_fit_cloudformation(assembly: Path) -> None:
    """A template takes at most half of CloudFormation's limits (User Guide, quotas), and users may add the rest."""
    for path in assembly.glob("*.template.json"):
        assert path.stat().st_size < 500_000, path.name  # of 1 MB
        assert len(json.loads(path.read_text())["Resources"]) < 250, path.name  # of 500


@pytest.mark.every_group
def test_user_data_fits_ec2(template: Mapping[str, Any]) -> None:
    """User data has at most 16 KB before base64 (EC2 User Guide, "Run commands when you launch an EC2 instance")."""
    (launch,) = of_type(template, "AWS::EC2::LaunchTemplate").values()
    assert length(launch["LaunchTemplateData"]["UserData"]) < 15.5 * KIB


def test_definitions_fit_step_functions(template: Mapping[str, Any]) -> None:
    """A definition has at most 1 MB (Step Functions Developer Guide, quotas)."""
    sizes = {layer: len(json.dumps(definition)) for layer, definition in by_layer(template).items()}
    assert len(sizes) == 3
    assert max(sizes.values()) < 500_000, sizes


def test_policies_fit_iam(template: Mapping[str, Any]) -> None:
    """A role's inline policies have at most 10,240 characters without white space (IAM quotas)."""
    sizes: dict[str, int] = {}
    for policy in of_type(template, "AWS::IAM::Policy").values():
        text = len(re.sub(r"\s", "", json.dumps(policy["PolicyDocument"])))
        for role in policy["Roles"]:
            sizes[role["Ref"]] = sizes.get(role["Ref"], 0) + text
    assert {role: size for role, size in sizes.items() if size > 10_240} == {}


def test_state_machines_log_where_no_resource_policy_grows(template: Mapping[str, Any]) -> None:
    """The log group is below /aws/vendedlogs/, which spares the account's resource policy of 5,120 characters."""
    # WHEN
    names = [
        json.dumps(group["LogGroupName"])
        for group in of_type(template, "AWS::Logs::LogGroup").values()
        if "LogGroupName" in group
    ]
    (name,) = names
    # THEN
    assert re.search(r"/aws/vendedlogs/states/\w*Training", name)
    assert "AWS::StackId" in name
