"""Fleets on reserved capacity: what is deployed, and how a run scales it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2

from cdk_horovod import (
    CapacityReservation,
    Engine,
    GpuFleet,
    HorovodTraining,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from cdk_horovod.asl.resolved import by_layer
from horovod_local.corrections.step_functions.jsonata import evaluate
from support.asl import bare, by_reference
from support.construct_stacks import Stacks, synthesise_validated

pytestmark = pytest.mark.synth

GROUP, TEMPLATE = "AWS::AutoScaling::AutoScalingGroup", "AWS::EC2::LaunchTemplate"
ID = "cr-0123456789abcdef0"
RESOURCES = "arn:aws:resource-groups:eu-west-1:123456789012:group/reserved"


def build(app: App) -> None:
    """Add a training on a Capacity Block, and fleets on other reservations."""
    stack = Stack(app, "Reserved")
    network = TrainingNetwork(stack, "Network")
    block = GpuFleet(
        stack,
        "Block",
        vpc=network.vpc,
        vpc_subnets=ec2.SubnetSelection(subnets=network.vpc.isolated_subnets[:1]),
        instance_types=["p4d.24xlarge"],
        max_gpus=32,
        spot=False,
        efa=True,
        capacity_reservation=CapacityReservation.block(ID),
    )
    for name, reservation, spot in (
        ("Only", CapacityReservation.on_demand(ids=[ID]), False),
        ("First", CapacityReservation.on_demand(resource_group_arn=RESOURCES, only=False), True),
    ):
        GpuFleet(
            stack,
            name,
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            instance_types=["g5.xlarge", "g5.12xlarge"],
            max_gpus=8,
            on_demand_base_gpus=4,
            spot=spot,
            capacity_reservation=reservation,
        )
    HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=Engine.ec2(block),
    )


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("reserved"), build)


@pytest.fixture(scope="module")
def states(stacks: Stacks) -> Mapping[str, Any]:
    """The states of a run on the Capacity Block."""
    found: Mapping[str, Any] = by_layer(stacks.templates["Reserved"].to_json())["run"]["States"]
    return found


def test_block_is_taken_by_the_launch_template(stacks: Stacks) -> None:
    """Auto Scaling takes a Capacity Block in a group with one launch template and one type, which counts instances."""
    # WHEN
    group = stacks.resource("Reserved", GROUP, id="Block")
    data = stacks.resource("Reserved", TEMPLATE, id="Block")["LaunchTemplateData"]

    # THEN
    assert "MixedInstancesPolicy" not in group
    assert list(group["LaunchTemplate"]) == ["LaunchTemplateId", "Version"]
    assert group["MaxSize"] == "4"
    assert data["InstanceType"] == "p4d.24xlarge"
    assert data["InstanceMarketOptions"] == {"MarketType": "capacity-block"}
    assert data["CapacityReservationSpecification"] == {"CapacityReservationTarget": {"CapacityReservationId": ID}}


def test_block_is_scaled_in_instances(states: Mapping[str, Any]) -> None:
    """Two nodes of 8 GPUs are a capacity of 2, and a group without a policy gets its launch template only."""
    # GIVEN
    (fleet,) = states["Check the request"]["Assign"]["fleets"]
    variables = {
        "request": {"gpus": 16},
        "fleet": fleet,
        "search": {"attempt": fleet["plan"][0]},
    }
    start = states["Start nodes"]["Arguments"]
    # THEN
    assert by_reference([variables], bare(start["DesiredCapacity"])) == [2]
    assert evaluate(bare(start["DesiredCapacity"]), variables) == 2
    assert start.keys() == {"AutoScalingGroupName", "DesiredCapacity", "LaunchTemplate", "VpcZoneIdentifier"}
    assert "MixedInstancesPolicy" not in states["Restore the group"]["Arguments"]
    assert [attempt["market"] for attempt in fleet["plan"]] == ["on-demand"]


def test_reservations_are_taken_by_the_group(stacks: Stacks) -> None:
    """The group launches its On-Demand nodes into the given reservations, only or first."""
    # WHEN
    groups = [stacks.resource("Reserved", GROUP, id=name) for name in ("Only", "First")]
    # THEN
    assert [group["CapacityReservationSpecification"] for group in groups] == [
        {
            "CapacityReservationPreference": "capacity-reservations-only",
            "CapacityReservationTarget": {"CapacityReservationIds": [ID]},
        },
        {
            "CapacityReservationPreference": "capacity-reservations-first",
            "CapacityReservationTarget": {"CapacityReservationResourceGroupArns": [RESOURCES]},
        },
    ]
    assert all("MixedInstancesPolicy" in group for group in groups)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'ids' or 'resource_group_arn' must be given, and not both, got neither"),
        ({"ids": [ID], "resource_group_arn": RESOURCES}, "'ids' or 'resource_group_arn' .* and not both, got both"),
        ({"ids": ID}, "'ids' must be a list of ids, got the id 'cr-"),
        ({"ids": [ID, "i-1"]}, "'ids' must be of Capacity Reservations, like cr-0123456789abcdef0, got i-1"),
    ],
)
def test_fails_when_nothing_was_reserved_like_this(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument and the value."""
    with pytest.raises(ValueError, match=message):
        CapacityReservation.on_demand(**arguments)


@pytest.mark.parametrize(
    ("reservation", "arguments", "message"),
    [
        (CapacityReservation.on_demand(ids=[ID]), {}, "'spot' must be off with a 'capacity_reservation' that is the"),
        (CapacityReservation.block(ID), {"spot": True}, "'spot' must be off with a 'capacity_reservation' that is the"),
        (
            CapacityReservation.block(ID),
            {"spot": False, "instance_types": ["p4d.24xlarge", "p4de.24xlarge"], "allow_heterogeneous_gpus": True},
            "'instance_types' must be the one type of the Capacity Block, got p4d.24xlarge, p4de.24xlarge",
        ),
        (
            CapacityReservation.block(ID),
            {"spot": False},
            "'vpc_subnets' must be in the one zone of the Capacity Block, got 3 zones",
        ),
    ],
)
def test_fails_when_the_fleet_cannot_use_it(
    reservation: CapacityReservation, arguments: dict[str, Any], message: str
) -> None:
    """A fleet whose arguments contradict its reservation is refused."""
    stack = Stack()
    network = TrainingNetwork(stack, "Network")
    fleet = {"instance_types": ["p4d.24xlarge"], "max_gpus": 16, "vpc": network.vpc, **arguments}
    with pytest.raises(ValueError, match=re.escape(message)):
        GpuFleet(stack, "Fleet", capacity_reservation=reservation, **fleet)


def test_fails_when_blocks_are_mixed_with_others() -> None:
    """A training cannot mix groups that count instances with groups that count GPUs."""
    # GIVEN
    stack = Stack()
    network = TrainingNetwork(stack, "Network")
    place: dict[str, Any] = {
        "vpc": network.vpc,
        "vpc_subnets": ec2.SubnetSelection(subnets=network.vpc.isolated_subnets[:1]),
        "instance_types": ["p4d.24xlarge"],
        "max_gpus": 16,
        "spot": False,
    }
    block = GpuFleet(stack, "Block", **place, capacity_reservation=CapacityReservation.block(ID))
    # WHEN / THEN
    with pytest.raises(ValueError, match="'fleets' must all be Capacity Blocks, or none of them, got some of each"):
        Engine.ec2(GpuFleet(stack, "Other", **place), block)
