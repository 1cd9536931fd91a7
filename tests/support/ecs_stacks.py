"""Trainings on ECS for tests that read their templates."""

from __future__ import annotations

import re
from typing import Any

from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_ecs as ecs

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingImage, TrainingNetwork, TrainingStorage
from support.construct_stacks import Stacks, flat

IMAGE = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")
TASK, SERVICE = "AWS::ECS::TaskDefinition", "AWS::ECS::Service"


def add_fleet(stack: Stack, id: str, *, network: TrainingNetwork, **options: Any) -> GpuFleet:
    """Add a fleet that mixes types with one GPU and with four."""
    arguments: dict[str, Any] = {
        "instance_types": ["g5.12xlarge", "g5.xlarge", "g5.4xlarge"],
        "max_gpus": 16,
        "vpc": network.vpc,
        "vpc_subnets": network.subnets,
        "boundary": network.boundary,
        **options,
    }
    return GpuFleet(stack, id, **arguments)


def add_training(stack: Stack, *fleets: GpuFleet, id: str = "Training", **options: Any) -> HorovodTraining:
    """Add a training on ECS."""
    storage = TrainingStorage(stack, f"{id}Storage")
    return HorovodTraining(stack, id, storage=storage, image=IMAGE, engine=Engine.ecs(*fleets, **options))


def build_own_and_shared(app: App) -> None:
    """Build a training with a cluster of its own and two fleets, and one in a cluster of another team."""
    own = Stack(app, "Own")
    network = TrainingNetwork(own, "Network", ecs=True)
    add_training(
        own,
        add_fleet(own, "Fleet", network=network, on_demand_base_gpus=1),
        add_fleet(own, "Second", network=network, instance_types=["p3.16xlarge"]),
    )
    shared = Stack(app, "Shared")
    network = TrainingNetwork(shared, "Network", ecs=True)
    add_training(
        shared,
        add_fleet(
            shared,
            "Fleet",
            network=network,
            vpc_subnets=ec2.SubnetSelection(subnets=network.vpc.isolated_subnets[:1]),
            instance_types=["p4d.24xlarge"],
            efa=True,
            machine_image="ami-0123456789abcdef0",
        ),
        cluster=ecs.Cluster.from_cluster_attributes(shared, "Theirs", cluster_name="team", vpc=network.vpc),
        placement_constraints=["attribute:ecs.instance-type =~ p4.*", "attribute:ecs.os-type == linux"],
        room=0.25,
    )


def boot(stacks: Stacks, stack: str, fleet: str) -> str:
    """Read the user data of a fleet, with references in short."""
    template = stacks.resource(stack, "AWS::EC2::LaunchTemplate", id=fleet)
    user_data = template["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    return flat(user_data)


def written(script: str, file: str) -> dict[str, str]:
    """Read the variables that a script writes to a file."""
    found = re.search(rf"cat > '{file}' <<'(\w+)'\n(.*?)\n\1\n", script, re.DOTALL)
    assert found
    return dict(line.split("=", 1) for line in found[2].splitlines())


def allowed(stacks: Stacks, stack: str, role: str) -> dict[str, set[str]]:
    """List what a role may do: action to resources in short."""
    found: dict[str, set[str]] = {}
    for statement in stacks.statements(stack, role=role):
        if statement["Effect"] == "Allow":
            actions, resources = statement["Action"], statement["Resource"]
            for action in [actions] if isinstance(actions, str) else actions:
                each = resources if isinstance(resources, list) else [resources]
                found.setdefault(action, set()).update(map(flat, each))
    return found
