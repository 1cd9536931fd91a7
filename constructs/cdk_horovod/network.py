"""A network for nodes, for users who bring none."""

from __future__ import annotations

from enum import Enum
from typing import Final

from aws_cdk import Fn, RemovalPolicy, Stack, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_logs as logs
from constructs import Construct

_CIDR: Final = "10.0.0.0/16"
_SUBNETS: Final = "Nodes"


class NetworkMode(Enum):
    """How nodes reach AWS. Nothing from outside reaches a node in any mode."""

    ISOLATED = "isolated"
    """Private subnets without any way to the internet; AWS through endpoints."""
    PRIVATE_WITH_NAT = "private-with-nat"
    """Private subnets with one NAT gateway, for scripts that download from the internet."""
    PUBLIC = "public"
    """Public subnets: nodes have public addresses for what they send, and a security group that lets nothing in."""


class TrainingNetwork(Construct):
    """
    VPC with one subnet for nodes in each Availability Zone.

    Creates: a VPC (10.0.0.0/16) and its subnets, gateway endpoints for S3 and DynamoDB, flow logs kept for a month,
    and what the mode adds:

    - `ISOLATED`: interface endpoints for the five other APIs that nodes call. `ecr.api` and `ecr.dkr` to pull the
      image, whose layers come through S3's endpoint; `logs` for the container's output; `states` to answer the state
      machine; `autoscaling` for the dead-man's switch. Nodes need no endpoint for KMS (S3 calls it), STS (credentials
      come from instance metadata), EC2 or Systems Manager (CloudFormation resolves the AMI).
    - `PRIVATE_WITH_NAT`: a NAT gateway, one for all zones, and its public subnets.
    - `PUBLIC`: an internet gateway.

    Cost at rest, with no node running, in us-east-1:

    | mode | what | USD an hour | USD in 730 hours |
    |---|---|---|---|
    | ISOLATED | 5 endpoints in each of 3 zones, 0.01 each | 0.150 | 110 |
    | PRIVATE_WITH_NAT | 1 NAT gateway, 0.045, with 1 public IPv4 address, 0.005 | 0.050 | 37 |
    | PUBLIC | nothing; each running node's address is 0.005 | 0.000 | 0 |

    Traffic is extra: 0.01 USD a GB through interface endpoints, 0.045 through NAT, none through gateway endpoints.
    These are list prices of 2026 (AWS PrivateLink pricing, Amazon VPC pricing); check yours.

    The VPC's default security group keeps AWS's rules: emptying it would take a custom resource, and thus a Lambda
    function. It lets in only its own members, and nothing here is a member.

    Args:
        mode:
            How nodes reach AWS.
            Default: `ISOLATED`.

        max_azs:
            Availability Zones to use, from 1 to 6; GPUs are often to be had in one and not in the next. In a stack
            without a fixed Region the deployment fails where there are fewer; in one with account and Region the CDK
            CLI looks the zones up and uses what there is.
            Default: 3.

    Raises:
        ValueError: If *max_azs* is not from 1 to 6.
    """

    def __init__(
        self, scope: Construct, id: str, *, mode: NetworkMode = NetworkMode.ISOLATED, max_azs: int = 3
    ) -> None:
        if not 1 <= max_azs <= 6:
            raise ValueError(f"'max_azs' must be from 1 to 6, got {max_azs}")
        super().__init__(scope, id)
        self.mode = mode
        log_group = logs.LogGroup(
            self, "FlowLogGroup", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY
        )
        zones = self._zones(max_azs)
        self.vpc: ec2.IVpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(_CIDR),
            availability_zones=zones,
            max_azs=None if zones else max_azs,
            nat_gateways=1 if mode is NetworkMode.PRIVATE_WITH_NAT else 0,
            subnet_configuration=_subnet_configuration(mode),
            # Also when the app's feature flags say otherwise: see the class.
            restrict_default_security_group=False,
            gateway_endpoints={
                "S3": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.S3),
                "DynamoDB": ec2.GatewayVpcEndpointOptions(service=ec2.GatewayVpcEndpointAwsService.DYNAMODB),
            },
            flow_logs={
                "FlowLog": ec2.FlowLogOptions(destination=ec2.FlowLogDestination.to_cloud_watch_logs(log_group))
            },
        )
        self.subnets = ec2.SubnetSelection(subnet_group_name=_SUBNETS)
        if mode is NetworkMode.ISOLATED:
            self._add_interface_endpoints()

    def _zones(self, max_azs: int) -> list[str] | None:
        """Name the zones by position where CDK does not know them; by itself it would then use only two."""
        stack = Stack.of(self)
        if Token.is_unresolved(stack.region) or Token.is_unresolved(stack.account):
            return [Fn.select(position, Fn.get_azs()) for position in range(max_azs)]
        return None

    def _add_interface_endpoints(self) -> None:
        security_group = ec2.SecurityGroup(
            self,
            "EndpointSecurityGroup",
            vpc=self.vpc,
            description="Interface endpoints: HTTPS from nodes",
            allow_all_outbound=False,
        )
        # The range itself, not `vpc_cidr_block`: behind that attribute cdk-nag's EC23 cannot see that it is not /0.
        security_group.add_ingress_rule(ec2.Peer.ipv4(_CIDR), ec2.Port.tcp(443), "HTTPS from this VPC")
        for name, service in {
            "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
            "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
            "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
            "StepFunctions": ec2.InterfaceVpcEndpointAwsService.STEP_FUNCTIONS,
            "AutoScaling": ec2.InterfaceVpcEndpointAwsService.AUTOSCALING,
        }.items():
            self.vpc.add_interface_endpoint(
                name, service=service, subnets=self.subnets, security_groups=[security_group], open=False
            )


def _subnet_configuration(mode: NetworkMode) -> list[ec2.SubnetConfiguration]:
    match mode:
        case NetworkMode.ISOLATED:
            return [ec2.SubnetConfiguration(name=_SUBNETS, subnet_type=ec2.SubnetType.PRIVATE_ISOLATED)]
        case NetworkMode.PRIVATE_WITH_NAT:
            return [
                ec2.SubnetConfiguration(name="Nat", subnet_type=ec2.SubnetType.PUBLIC, cidr_mask=28),
                ec2.SubnetConfiguration(name=_SUBNETS, subnet_type=ec2.SubnetType.PRIVATE_WITH_EGRESS),
            ]
        case NetworkMode.PUBLIC:
            return [ec2.SubnetConfiguration(name=_SUBNETS, subnet_type=ec2.SubnetType.PUBLIC)]
