"""The subnets of a fleet and their Availability Zones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aws_cdk import aws_ec2 as ec2

from cdk_horovod.fleet.capacity_plan import Zone

if TYPE_CHECKING:
    from aws_cdk import Stack


def select_subnets(vpc: ec2.IVpc, selection: ec2.SubnetSelection | None) -> ec2.SelectedSubnets:
    """Select subnets as CDK's constructs do; without *selection*, use CDK's default."""
    chosen = selection or ec2.SubnetSelection()
    return vpc.select_subnets(
        availability_zones=chosen.availability_zones,
        one_per_az=chosen.one_per_az,
        subnet_filters=chosen.subnet_filters,
        subnet_group_name=chosen.subnet_group_name,
        subnets=chosen.subnets,
        subnet_type=chosen.subnet_type,
    )


def refuse_public_subnets(subnets: ec2.SelectedSubnets, *, vpc: ec2.IVpc) -> None:
    """
    Refuse public subnets for nodes with Elastic Fabric Adapters.

    Raises:
        ValueError: If there is one.
    """
    if subnets.has_public and not subnets.is_pending_lookup:
        raise ValueError(
            "'vpc_subnets' must be private with 'efa', because EC2 gives no public address to an instance with "
            f"several network interfaces, got public subnets of {vpc.node.path}"
        )


def zones_of(subnets: ec2.SelectedSubnets, *, stack: Stack) -> tuple[Zone, ...]:
    """
    Group subnets by zone, in the order in which the zones first occur.

    A zone's name may be a CDK token, different for each subnet, so zones are compared as resolved in *stack*.
    """
    found: dict[str, list[ec2.ISubnet]] = {}
    for subnet in subnets.subnets:
        found.setdefault(json.dumps(stack.resolve(subnet.availability_zone)), []).append(subnet)
    return tuple(
        Zone(
            name=members[0].availability_zone,
            key=key,
            subnets=tuple(subnet.subnet_id for subnet in members),
        )
        for key, members in found.items()
    )
