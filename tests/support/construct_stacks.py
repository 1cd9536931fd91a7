"""
Stacks of the library's constructs, for tests that need no `app.py`.

They are synthesised as a user's app is: with cdk-nag, without feature flags.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aws_cdk import App, Stack, Validations
from aws_cdk.assertions import Template
from cdk_nag import AwsSolutionsChecks

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingImage, TrainingNetwork, TrainingStorage

Resource = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stacks:
    """
    What a synthesis wrote.

    Args:
        folder: The cloud assembly.
        templates: By the name of the stack.
        accepted: cdk-nag's findings that are acknowledged, as (rule, path of the resource).
    """

    folder: Path
    templates: Mapping[str, Template]
    accepted: frozenset[tuple[str, str]]

    def resources(self, stack: str, kind: str, *, id: str = "") -> dict[str, Resource]:
        """Find the properties of all resources of *kind* whose logical id begins with *id*."""
        found = self.templates[stack].find_resources(kind)
        return {name: resource.get("Properties", {}) for name, resource in found.items() if name.startswith(id)}

    def resource(self, stack: str, kind: str, *, id: str = "") -> Resource:
        """Find the properties of the only such resource."""
        (only,) = self.resources(stack, kind, id=id).values()
        return only

    def kinds(self, stack: str) -> set[str]:
        """List the resource types of a stack."""
        return {resource["Type"] for resource in self.templates[stack].to_json()["Resources"].values()}

    def statements(self, stack: str, *, role: str) -> Iterator[Resource]:
        """Walk the policy statements of the role whose logical id begins with *role*."""
        # CDK makes a managed policy of what a role's own policies have no room for.
        for kind in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            for policy in self.resources(stack, kind).values():
                if any(each["Ref"].startswith(role) for each in policy["Roles"]):
                    yield from policy["PolicyDocument"]["Statement"]


def synthesise_validated(folder: Path, build: Callable[[App], None]) -> Stacks:
    """
    Synthesise what *build* adds to an app; fails when cdk-nag or CDK itself finds what is not acknowledged.

    Args:
        folder: Where to write the cloud assembly.
        build: Adds stacks without a fixed environment, unless the environment is what is tested.
    """
    app = App(outdir=str(folder))
    Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    build(app)
    app.synth()
    # One report of cdk-nag and one of CDK's own check of the templates; none of a check without findings.
    reports = json.loads((folder / "validation-report.json").read_text())["pluginReports"]
    assert [violation for report in reports for violation in report["violations"]] == []
    return Stacks(
        folder=folder,
        templates={
            path.name.removesuffix(".template.json"): Template.from_json(json.loads(path.read_text()))
            for path in folder.glob("*.template.json")
        },
        accepted=frozenset(
            (finding["ruleName"], construct["constructPath"])
            for report in reports
            for finding in report.get("suppressedViolations", ())
            for construct in finding["violatingConstructs"]
        ),
    )


def flat(value: Any) -> str:
    """Write a resolved ARN in short: the logical id or export it is made of, and the path."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(flat(part) for part in parts)
        case {"Fn::GetAtt": [name, _]} | {"Ref": name} | {"Fn::ImportValue": name} | {"Fn::Sub": name}:
            return str(name)
    return str(value)


def training_in(stack: Stack) -> HorovodTraining:
    """Add a training with everything that it needs to *stack*."""
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        boundary=network.boundary,
        instance_types=["g5.xlarge"],
        max_gpus=8,
        on_demand_base_gpus=1,
    )
    storage = TrainingStorage(stack, "Storage")
    image = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")
    return HorovodTraining(stack, "Training", storage=storage, image=image, engine=Engine.ec2(fleet))
