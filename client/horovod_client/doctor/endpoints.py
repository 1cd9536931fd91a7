"""Checks whether container instances in a network without a way to the internet reach what they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.connection import Fleet
from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.account import ENDPOINT_SERVICES
from horovod_client.doctor.check import FAIL, OK, Check, unchecked
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client

ECS_SERVICES: Final = ("ecs", "ecs-agent")
"""
Services for which the agent of ECS needs interface endpoints.

The ECS Developer Guide ("Amazon ECS interface VPC endpoints (AWS PrivateLink)") also names `ecs-telemetry`. Agents of
this library's nodes send no telemetry.
"""
GATEWAYS: Final = ("dynamodb", "s3")
"""Services that have gateway endpoints; an interface endpoint serves as well."""
ANYWHERE: Final = ("0.0.0.0/0", "::/0")
_ACTIONS: Final = (
    "autoscaling:DescribeAutoScalingGroups, ec2:DescribeSubnets, ec2:DescribeRouteTables and ec2:DescribeVpcEndpoints"
)


def check_endpoints(fleets: Iterable[Fleet], *, ec2: EC2Client, autoscaling: AutoScalingClient) -> Iterator[Check]:
    """
    Check that nodes on ECS reach ECS, ECR, S3, DynamoDB, Step Functions, Auto Scaling and CloudWatch Logs.

    A subnet whose route table has a default route is taken to reach them. Otherwise its VPC must have endpoints.

    Args:
        fleets: The training's fleets; those of other engines are left out.
        ec2: Client for subnets, route tables and endpoints.
        autoscaling: Client for the subnets of a fleet's group.
    """
    for fleet in (fleet for fleet in fleets if fleet.engine == contract.ENGINE_ECS and fleet.group):
        name = f"endpoints of {fleet.id}"
        try:
            groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[fleet.group])["AutoScalingGroups"]
            subnets = [subnet for group in groups for subnet in group.get("VPCZoneIdentifier", "").split(",") if subnet]
            yield _check(name, subnets=subnets, ec2=ec2)
        except AwsError as error:
            yield unchecked(name, why_refused(error, action=_ACTIONS))


def _check(name: str, *, subnets: Sequence[str], ec2: EC2Client) -> Check:
    closed = _without_a_way_out(subnets, ec2=ec2)
    if not closed:
        return Check(name=name, state=OK, says="its subnets have a default route, so nodes need no endpoints")
    there = {service for vpc in set(closed.values()) for service in _services(vpc, ec2=ec2)}
    lacking = [service for service in (*ECS_SERVICES, *ENDPOINT_SERVICES, *GATEWAYS) if service not in there]
    if not lacking:
        return Check(name=name, state=OK, says="its subnets have no default route, and every endpoint that nodes need")
    return Check(
        name=name,
        state=FAIL,
        says=f"{', '.join(closed)} have no default route, and their VPC has no endpoint of {', '.join(lacking)}",
        fix="set 'ecs' of TrainingNetwork, or add these endpoints to your VPC, interface endpoints with private DNS "
        "names; or use subnets behind a NAT gateway",
    )


def _without_a_way_out(subnets: Sequence[str], *, ec2: EC2Client) -> dict[str, str]:
    """Return the VPCs of those subnets whose route table has no default route."""
    vpcs = {subnet["SubnetId"]: subnet["VpcId"] for subnet in ec2.describe_subnets(SubnetIds=[*subnets])["Subnets"]}
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": sorted(set(vpcs.values()))}])
    own: dict[str, Mapping[str, Any]] = {}
    main: dict[str, Mapping[str, Any]] = {}
    for table in tables["RouteTables"]:
        for association in table["Associations"]:
            if association.get("Main"):
                main[table["VpcId"]] = table
            elif "SubnetId" in association:
                own[association["SubnetId"]] = table
    return {subnet: vpc for subnet, vpc in vpcs.items() if not _leads_out(own.get(subnet) or main.get(vpc) or {})}


def _leads_out(table: Mapping[str, Any]) -> bool:
    return any(
        route.get("State") == "active"
        and (route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock")) in ANYWHERE
        for route in table.get("Routes", ())
    )


def _services(vpc: str, *, ec2: EC2Client) -> set[str]:
    """List the services of a VPC's endpoints that nodes can use under their usual names."""
    pages = ec2.get_paginator("describe_vpc_endpoints").paginate(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    return {
        # com.amazonaws.REGION.SERVICE, of which a service may have dots; in China some begin with cn.
        endpoint["ServiceName"].removeprefix("cn.").split(".", 3)[-1]
        for page in pages
        for endpoint in page["VpcEndpoints"]
        if endpoint["State"].lower() == "available"
        and (endpoint["VpcEndpointType"] != "Interface" or endpoint.get("PrivateDnsEnabled"))
    }
