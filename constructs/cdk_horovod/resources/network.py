"""A network for nodes, for users without a VPC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from aws_cdk import Fn, RemovalPolicy, Stack, Token
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_horovod.resources.endpoint_policies import image_layers, perimeter, system_packages
from cdk_horovod.resources.network_boundary import NetworkBoundary

_CIDR: Final = "10.0.0.0/16"
_SUBNETS: Final = "Nodes"
_ECS_AGENT: Final = "EcsAgent"
_PREFIX_LIST: Final = re.compile(r"pl-[0-9a-f]{8}([0-9a-f]{9})?")
_ACCOUNT: Final = re.compile(r"\d{12}")


class NetworkMode(Enum):
    """How nodes reach AWS. Nothing from outside reaches a node in any mode."""

    ISOLATED = "isolated"
    """Private subnets without internet access; AWS is reached through VPC endpoints."""
    PRIVATE_WITH_NAT = "private-with-nat"
    """Private subnets with a NAT gateway, for scripts that download from the internet."""
    PUBLIC = "public"
    """Public subnets: nodes have public addresses, and a security group without inbound rules from outside."""


class TrainingNetwork(Construct):
    """
    VPC with one subnet for nodes in each Availability Zone.

    Creates: a VPC (10.0.0.0/16) and its subnets, gateway endpoints for S3 and DynamoDB, flow logs kept for a month,
    and depending on the mode:

    - `ISOLATED`: interface endpoints for the five other APIs that nodes call. `ecr.api` and `ecr.dkr` to pull the
      image, whose layers come through S3's endpoint; `logs` for the container's output; `states` to answer task tokens;
      `autoscaling` for the dead-man's switch. Nodes need no endpoint for KMS (S3 calls it), STS (credentials come from
      instance metadata), EC2 or Systems Manager (CloudFormation resolves the AMI). The endpoints allow only calls of
      this account's principals on this account's resources, and image layers (see `perimeter`).
    - `PRIVATE_WITH_NAT`: a NAT gateway, one for all zones, and its public subnets.
    - `PUBLIC`: an internet gateway.

    Cost at rest, with no node running, in us-east-1:

    | mode | what | USD an hour | USD in 730 hours |
    |---|---|---|---|
    | ISOLATED | 5 endpoints in each of 3 zones, 0.01 each | 0.150 | 110 |
    | PRIVATE_WITH_NAT | 1 NAT gateway, 0.045, with 1 public IPv4 address, 0.005 | 0.050 | 37 |
    | PUBLIC | nothing; each running node's address costs 0.005 | 0.000 | 0 |

    Traffic is extra: 0.01 USD a GB through interface endpoints, 0.045 through NAT, none through gateway endpoints.
    These are list prices of 2026 (AWS PrivateLink pricing, Amazon VPC pricing); check yours.

    The VPC's default security group keeps its rules, because removing them takes a custom resource, and so a Lambda
    function. It admits only its own members, and no resource of this construct is a member.

    Args:
        mode:
            How nodes reach AWS.
            Default: `ISOLATED`.

        max_azs:
            Number of Availability Zones, from 1 to 6; with more zones, GPU capacity is found more often. In a stack
            without a fixed Region the deployment fails if the Region has fewer. In a stack with account and Region the
            CDK CLI looks up the zones, and uses those that exist. `cdk-horovod doctor` counts yours.
            Default: 3.

        availability_zones:
            Names of the zones to use, `["us-east-1a", "us-east-1f"]`, instead of *max_azs*. Without a fixed Region,
            CloudFormation lists only zones in which the account's default VPC still has its subnet (CloudFormation
            Template Reference, "Fn::GetAZs"); other zones must be named here.
            Default: the first *max_azs* zones.

        endpoint_azs:
            Number of zones with interface endpoints, counted from the first. Nodes in other zones use them, too, at
            0.01 USD a GB. Fewer zones lower the cost at rest, or avoid zones in which a service has no endpoint.
            Default: all zones.

        readable_accounts:
            Ids of other accounts whose buckets and ECR repositories nodes may read through the endpoints of `ISOLATED`,
            for their `data_buckets` and images.
            Default: none.

        storage_accounts:
            Ids of other accounts whose buckets nodes may read and write through the endpoints of `ISOLATED`, for a
            model bucket there (`TrainingStorage.from_buckets`).
            Default: none.

        gateway_prefix_lists:
            Ids of the prefix lists of S3 and DynamoDB in the Region, `["pl-6da54004", …]`. The nodes' security group
            then allows HTTPS only to these and the endpoints, instead of to every address. CloudFormation cannot look
            them up: use `aws ec2 describe-managed-prefix-lists --filters Name=owner-id,Values=AWS`.
            Default: every address, of which the routes of `ISOLATED` reach S3, DynamoDB and the VPC.

        session_manager:
            Whether people can open a session on a node of `ISOLATED` (`GpuFleet.session_manager`). Adds the interface
            endpoints `ssm` and `ssmmessages`. A third one, `ec2messages`, is only for agents older than 3.3.40, and
            newer Regions do not have it (Systems Manager User Guide, "Reference: ec2messages, ssmmessages, and other
            API operations").
            Default: False.

        ecs:
            Whether container instances of Amazon ECS can run in `ISOLATED`, for `Engine.ecs`. Adds the interface
            endpoints `ecs` and `ecs-agent`, at rest 44 USD more in 730 hours and three zones. A third one,
            `ecs-telemetry`, is not needed, because the nodes' agents send no telemetry.
            Default: False.

    Attributes:
        boundary: What nodes may reach, for `GpuFleet`; None if the mode has internet access.

    Raises:
        ValueError: If an argument has a value that is valid in no Region; the message names it.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        mode: NetworkMode | str = NetworkMode.ISOLATED,
        max_azs: int = 3,
        availability_zones: Sequence[str] = (),
        endpoint_azs: int | None = None,
        readable_accounts: Sequence[str] = (),
        storage_accounts: Sequence[str] = (),
        gateway_prefix_lists: Sequence[str] = (),
        session_manager: bool = False,
        ecs: bool = False,
    ) -> None:
        if not 1 <= max_azs <= 6:
            raise ValueError(f"'max_azs' must be from 1 to 6, got {max_azs}")
        if len(set(availability_zones)) < len(availability_zones):
            raise ValueError(f"'availability_zones' must name each zone once, got {', '.join(availability_zones)}")
        number = len(availability_zones) or max_azs
        if endpoint_azs is not None and not 1 <= endpoint_azs <= number:
            raise ValueError(f"'endpoint_azs' must be from 1 to {number}, the number of zones, got {endpoint_azs}")
        for argument, accounts in (("readable_accounts", readable_accounts), ("storage_accounts", storage_accounts)):
            _check_each(argument, accounts, _ACCOUNT, "ids of AWS accounts, of 12 digits")
        _check_each("gateway_prefix_lists", gateway_prefix_lists, _PREFIX_LIST, "ids of prefix lists, pl-…")
        mode = _mode_of(mode)
        super().__init__(scope, id)
        self.mode = mode
        isolated = mode is NetworkMode.ISOLATED
        log_group = logs.LogGroup(
            self, "FlowLogGroup", retention=logs.RetentionDays.ONE_MONTH, removal_policy=RemovalPolicy.DESTROY
        )
        zones = list(availability_zones) or self._zones(max_azs)
        self.vpc: ec2.IVpc = ec2.Vpc(
            self,
            "Vpc",
            ip_addresses=ec2.IpAddresses.cidr(_CIDR),
            availability_zones=zones,
            max_azs=None if zones else max_azs,
            nat_gateways=1 if mode is NetworkMode.PRIVATE_WITH_NAT else 0,
            subnet_configuration=_subnet_configuration(mode),
            # Regardless of the app's feature flags; see the docstring of the class.
            restrict_default_security_group=False,
            flow_logs={
                "FlowLog": ec2.FlowLogOptions(destination=ec2.FlowLogDestination.to_cloud_watch_logs(log_group))
            },
        )
        gateways = {
            name: self.vpc.add_gateway_endpoint(name, service=service)
            for name, service in {
                "S3": ec2.GatewayVpcEndpointAwsService.S3,
                "DynamoDB": ec2.GatewayVpcEndpointAwsService.DYNAMODB,
            }.items()
        }
        self.subnets = ec2.SubnetSelection(subnet_group_name=_SUBNETS)
        self.boundary: NetworkBoundary | None = None
        if isolated:
            policy = perimeter(self, readable_accounts=readable_accounts, storage_accounts=storage_accounts)
            for name, gateway in gateways.items():
                for statement in [*policy, image_layers(self)] if name == "S3" else policy:
                    gateway.add_to_policy(statement)
            if ecs:
                gateways["S3"].add_to_policy(system_packages(self))
            security_group = self._add_interface_endpoints(
                policy=policy, zones=endpoint_azs, session_manager=session_manager, ecs=ecs
            )
            if gateway_prefix_lists:
                ways_out = [security_group, *map(ec2.Peer.prefix_list, gateway_prefix_lists)]
            else:
                ways_out = [ec2.Peer.any_ipv4()]
            self.boundary = NetworkBoundary(vpc=self.vpc, ways_out=ways_out, ecs=ecs)

    def _zones(self, max_azs: int) -> list[str] | None:
        """Return zones by position if CDK does not know their names; otherwise it would use only two."""
        stack = Stack.of(self)
        if Token.is_unresolved(stack.region) or Token.is_unresolved(stack.account):
            return [Fn.select(position, Fn.get_azs()) for position in range(max_azs)]
        return None

    def _add_interface_endpoints(
        self, *, policy: Sequence[iam.PolicyStatement], zones: int | None, session_manager: bool, ecs: bool
    ) -> ec2.SecurityGroup:
        security_group = ec2.SecurityGroup(
            self,
            "EndpointSecurityGroup",
            vpc=self.vpc,
            description="Interface endpoints: HTTPS from nodes",
            allow_all_outbound=False,
        )
        # The literal range: in a reference to `vpc_cidr_block` cdk-nag's EC23 could not see that it is not /0.
        security_group.add_ingress_rule(ec2.Peer.ipv4(_CIDR), ec2.Port.tcp(443), "HTTPS from this VPC")
        services = {
            "EcrApi": ec2.InterfaceVpcEndpointAwsService.ECR,
            "EcrDocker": ec2.InterfaceVpcEndpointAwsService.ECR_DOCKER,
            "Logs": ec2.InterfaceVpcEndpointAwsService.CLOUDWATCH_LOGS,
            "StepFunctions": ec2.InterfaceVpcEndpointAwsService.STEP_FUNCTIONS,
            "AutoScaling": ec2.InterfaceVpcEndpointAwsService.AUTOSCALING,
        }
        if session_manager:
            services["SystemsManager"] = ec2.InterfaceVpcEndpointAwsService.SSM
            services["SessionManager"] = ec2.InterfaceVpcEndpointAwsService.SSM_MESSAGES
        if ecs:
            services["Ecs"] = ec2.InterfaceVpcEndpointAwsService.ECS
            services[_ECS_AGENT] = ec2.InterfaceVpcEndpointAwsService.ECS_AGENT
        subnets = ec2.SubnetSelection(subnets=self.vpc.select_subnets(subnet_group_name=_SUBNETS).subnets[:zones])
        for name, service in services.items():
            endpoint = self.vpc.add_interface_endpoint(
                name, service=service, subnets=subnets, security_groups=[security_group], open=False
            )
            # AWS documents policies for the endpoint of ECS's API, not for that of its agents (ECS Developer Guide,
            # "Amazon ECS interface VPC endpoints"), and a service without policies refuses one.
            for statement in policy if name != _ECS_AGENT else ():
                endpoint.add_to_policy(statement)
        return security_group


def _check_each(argument: str, values: Sequence[str], pattern: re.Pattern[str], rule: str) -> None:
    for value in values:
        if not pattern.fullmatch(value):
            raise ValueError(f"'{argument}' must be {rule}, got {value!r}")


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


def _mode_of(mode: NetworkMode | str) -> NetworkMode:
    try:
        return NetworkMode(mode)
    except ValueError:
        members = ", ".join(f"NetworkMode.{member.name}" for member in NetworkMode)
        raise ValueError(f"'mode' must be one of {members}, got {mode!r}") from None
