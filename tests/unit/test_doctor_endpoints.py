"""What the doctor says of a network in which container instances of Amazon ECS run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto import mock_aws

from horovod_client import Fleet
from horovod_client.doctor.check import FAIL, OK, WARN, Check
from horovod_client.doctor.endpoints import check_endpoints

FLEET = Fleet(id="Fleet", engine="ecs", group="nodes", max_gpus=16, gpu_step=4, types={"g5.12xlarge": 4})
EVERY = ("ecs", "ecs-agent", "autoscaling", "ecr.api", "ecr.dkr", "logs", "states")


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A VPC with one subnet, in which the fleet's group is."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    # Nothing leaves this process, so the address that keeps tests from AWS is not needed.
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield Network()


class Network:
    """A VPC of moto."""

    def __init__(self) -> None:
        self.ec2 = boto3.client("ec2", region_name="eu-west-1")
        self.autoscaling = boto3.client("autoscaling", region_name="eu-west-1")
        self.vpc = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
        image = self.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.autoscaling.create_launch_configuration(
            LaunchConfigurationName="nodes", ImageId=image, InstanceType="g5.12xlarge"
        )
        self.autoscaling.create_auto_scaling_group(
            AutoScalingGroupName="nodes",
            LaunchConfigurationName="nodes",
            MinSize=0,
            MaxSize=4,
            VPCZoneIdentifier=self.subnet,
        )

    def add_endpoints(self, *services: str, private_names: bool = True) -> None:
        """Add interface endpoints, and the gateway endpoints of S3 and DynamoDB."""
        for service in services:
            self.ec2.create_vpc_endpoint(
                VpcId=self.vpc,
                VpcEndpointType="Interface",
                ServiceName=f"com.amazonaws.eu-west-1.{service}",
                SubnetIds=[self.subnet],
                PrivateDnsEnabled=private_names,
            )
        for service in ("s3", "dynamodb"):
            self.ec2.create_vpc_endpoint(
                VpcId=self.vpc, VpcEndpointType="Gateway", ServiceName=f"com.amazonaws.eu-west-1.{service}"
            )

    def open(self) -> None:
        """Lead the main route table, which the subnet has, to an internet gateway."""
        gateway = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        (table,) = self.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["RouteTables"]
        self.ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)

    def check(self, *fleets: Fleet) -> list[Check]:
        return [*check_endpoints(fleets, ec2=self.ec2, autoscaling=self.autoscaling)]


def test_tells_which_endpoints_are_missing(network: Network) -> None:
    """Without a default route, an endpoint that nodes need and the VPC has not is a failure, with what to do."""
    # GIVEN what nodes on EC2 need
    network.add_endpoints(*EVERY[2:])
    # WHEN
    (check,) = network.check(FLEET)
    # THEN
    assert (check.name, check.state) == ("endpoints of Fleet", FAIL)
    assert check.says == (f"{network.subnet} have no default route, and their VPC has no endpoint of ecs, ecs-agent")
    assert check.fix.startswith("set 'ecs' of TrainingNetwork, or add these endpoints to your VPC")


def test_endpoints_without_private_names_do_not_count(network: Network) -> None:
    """An agent calls services by their usual names, which lead nowhere unless the endpoint has them."""
    network.add_endpoints(*EVERY, private_names=False)
    (check,) = network.check(FLEET)
    assert (check.state, check.says.rpartition(" of ")[2]) == (FAIL, ", ".join(EVERY))


def test_every_endpoint_or_a_default_route_suffices(network: Network) -> None:
    """A network with all endpoints is well, and so is one with a way out."""
    network.add_endpoints(*EVERY)
    (closed,) = network.check(FLEET)
    network.open()
    (opened,) = network.check(FLEET)
    # THEN
    assert (closed.state, closed.says) == (
        OK,
        "its subnets have no default route, and every endpoint that nodes need",
    )
    assert (opened.state, opened.says) == (OK, "its subnets have a default route, so nodes need no endpoints")


def test_a_way_out_needs_no_endpoints(network: Network) -> None:
    """Subnets with a default route need none at all."""
    network.open()
    assert [check.state for check in network.check(FLEET)] == [OK]


def test_other_engines_are_not_asked_about(network: Network) -> None:
    """The check is of the agent of ECS."""
    assert network.check(Fleet(id="Other", group="nodes", max_gpus=16, gpu_step=4)) == []


def test_a_missing_permission_is_a_warning(network: Network) -> None:
    """Whoever may not read the network is told which permissions that takes."""
    with Stubber(network.autoscaling) as stubber:
        stubber.add_client_error("describe_auto_scaling_groups", "AccessDenied")
        (check,) = network.check(FLEET)
    assert (check.state, check.says) == (
        WARN,
        "could not be checked: your credentials lack the permission autoscaling:DescribeAutoScalingGroups, "
        "ec2:DescribeSubnets, ec2:DescribeRouteTables and ec2:DescribeVpcEndpoints",
    )
