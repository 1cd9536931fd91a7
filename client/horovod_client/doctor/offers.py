"""Checks whether EC2 offers the fleets' instance types in the fleets' zones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from horovod_client.aws.connection import Fleet
from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.check import FAIL, OK, WARN, Check, unchecked

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client


def check_offers(fleets: Iterable[Fleet], *, ec2: EC2Client, autoscaling: AutoScalingClient) -> Iterator[Check]:
    """
    Compare the zones of each fleet with those in which EC2 offers its types.

    Args:
        fleets: The training's fleets; those without an Auto Scaling group choose no zones.
        ec2: Client for offerings.
        autoscaling: Client for the zones of a fleet's group.
    """
    for fleet in (fleet for fleet in fleets if fleet.group):
        name = f"zones of {fleet.id}"
        try:
            groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[fleet.group])["AutoScalingGroups"]
            offered = _offers(sorted(fleet.types), ec2=ec2)
        except AwsError as error:
            action = "autoscaling:DescribeAutoScalingGroups and ec2:DescribeInstanceTypeOfferings"
            yield unchecked(name, why_refused(error, action=action))
            continue
        zones = sorted({zone for group in groups for zone in group["AvailabilityZones"]})
        yield _compare(name, zones=zones, offered=offered, types=sorted(fleet.types))


def _offers(types: list[str], *, ec2: EC2Client) -> set[str]:
    """List the zones with at least one of *types*."""
    pages = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": types}]
    )
    return {offer["Location"] for page in pages for offer in page["InstanceTypeOfferings"]}


def _compare(name: str, *, zones: list[str], offered: set[str], types: list[str]) -> Check:
    without = [zone for zone in zones if zone not in offered]
    if not without:
        return Check(name=name, state=OK, says=f"EC2 offers the fleet's types in {', '.join(zones)}")
    others = ", ".join(sorted(offered)) or "no zone of this Region"
    return Check(
        name=name,
        state=FAIL if len(without) == len(zones) else WARN,
        says=f"EC2 offers none of {', '.join(types)} in {', '.join(without)}; it offers some in {others}",
        fix="use such zones with -c horovod:availability_zones=…, or choose other instance types",
    )
