"""The fleet of GPU instances on which runs train."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import jsii
from aws_cdk import Names, Size, Stack
from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.fleet.capacity_attempt import GpuCapacity
from cdk_horovod.fleet.capacity_plan import CapacityPlan, FleetPlace, PlannedAttempt, plan_attempts
from cdk_horovod.fleet.capacity_reservation import CapacityReservation
from cdk_horovod.fleet.efa import EFA_ENVIRONMENT, common_efa_interfaces, network_interfaces, warn_of_unused_adapters
from cdk_horovod.fleet.machine_image import ChosenImage, PinnedImage
from cdk_horovod.fleet.root_volume import refuse_throughput, root_volume
from cdk_horovod.fleet.scaling_group import scaling_group
from cdk_horovod.fleet.volume_key import let_auto_scaling_use
from cdk_horovod.fleet.zones import refuse_public_subnets, select_subnets, zones_of
from cdk_horovod.resources.session_manager import let_people_log_in
from horovod_node import contract

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aws_cdk import aws_kms as kms

    from cdk_horovod.resources.network_boundary import NetworkBoundary


@jsii.implements(ec2.IConnectable, iam.IGrantable)
class GpuFleet(Construct):
    """
    Auto Scaling group of GPU instances that rests at zero, its capacity counted in GPUs.

    The weight of an instance type is its number of GPUs, so a desired capacity of 16 is 16 GPUs, whatever the types.
    The template sets no desired capacity, so a deployment does not change it: only this library's state machines and
    nodes scale the group.

    Creates: a launch template, a group, a role without permissions, and a security group that allows traffic between
    its members and outbound HTTPS only. With *efa*, also a cluster placement group. Instances have encrypted volumes
    and instance metadata version 2 only; an instance that shuts itself down is terminated.

    Of the types that have no more GPUs than a run asks for, On-Demand uses the one with the fewest (`prioritized`), and
    Spot the one with the best balance of price and spare capacity (`price-capacity-optimized`, which AWS recommends for
    training). Cost at rest: none.

    Args:
        vpc:
            Network of the nodes.

        vpc_subnets:
            Subnets of the nodes; `TrainingNetwork.subnets` in a `TrainingNetwork`.
            Default: private subnets, else isolated, else public ones.

        instance_types:
            1 to 40 types, each a name or an `ec2.InstanceType`: `["g5.12xlarge", …]`. With more types, Spot has
            capacity more often. See `cdk_horovod.fleet.gpu_types`.

        max_gpus:
            Most GPUs of the fleet. A multiple of the GPUs of the smallest type, and at most 600 nodes of that type.

        on_demand_base_gpus:
            GPUs that come from On-Demand before any come from Spot. Above zero, the leader of each run is On-Demand.
            A multiple of the GPUs of the smallest type.
            Default: 0.

        allow_heterogeneous_gpus:
            Whether types with different GPU models may be mixed. The slowest GPU sets the pace of the ring.
            Default: False.

        spot:
            Whether GPUs above *on_demand_base_gpus* come from Spot. If False, all GPUs are On-Demand.
            Default: True.

        efa:
            Whether nodes get Elastic Fabric Adapters, their settings and a cluster placement group, for rings of many
            large nodes. All types must have the same number of adapters, and subnets must be private. A cluster
            placement group is in one Availability Zone, and so are a run's nodes. If the image has no EFA software,
            that of the machine image is used (docs/efa.md).
            Default: False.

        capacity_plan:
            The attempts of a run to get nodes, in order. See `CapacityPlan`.
            Default: Spot in all zones together, then in each zone, then On-Demand. With *efa*, Spot in each zone, then
            On-Demand in each zone. Without *spot*, On-Demand.

        capacity_reservation:
            Reserved capacity of the fleet. See `CapacityReservation`. A Capacity Block needs *instance_types* with its
            type only, subnets in its zone, and no *spot*.
            Default: none.

        machine_image:
            Image with an NVIDIA driver, Docker and the NVIDIA container toolkit, or the id of an AMI, `"ami-…"`, to pin
            it; for `Engine.ecs`, also with the agent of Amazon ECS.
            Default: the engine's newest image at each deployment. For `Engine.ec2` it is the Deep Learning Base GPU AMI
            (`machine_image.DEEP_LEARNING_AMI`), which has no driver for P3; for `Engine.ecs`, the ECS GPU AMI.

        root_device_name:
            Device name of the image's root volume: `/dev/sda1` for Ubuntu.
            Default: `/dev/xvda`, as in Amazon Linux.

        volume_size:
            Size of each node's root volume, for the container image, and for data on types without NVMe.
            Default: 200 GiB.

        volume_throughput:
            Throughput of the root volume, in MiB/s, from 125 to 1000. With the 125 that are included in gp3, GPUs would
            idle for more than a minute while an image of 8 GB is written. Above that, each MiB/s costs 0.04 USD a
            month, so 500 costs 0.02 USD for each hour of a node (Amazon EBS pricing, 2026, us-east-1).
            Default: 500.

        encryption_key:
            KMS key for the volumes. The policy of a key in this app is extended for EC2 Auto Scaling; the policy of an
            imported key must already allow it.
            Default: the account's `aws/ebs` key.

        boundary:
            What nodes may reach, `TrainingNetwork.boundary`: the security group allows HTTPS only to there, and the
            role denies calls that do not come through an endpoint of the network.
            Default: HTTPS to any address, and a role that is valid everywhere.

        session_manager:
            Whether people with `ssm:StartSession` can log in to nodes, for example to examine one that failed to boot.
            They are root there, and so have all permissions of a node. In `ISOLATED` the network needs the option of
            the same name.
            Default: False.

        role:
            Role of the nodes; `ec2.amazonaws.com` must be allowed to assume it.
            Default: a new role, to which grants add permissions.

        security_group:
            Security group of the nodes. A rule is added that allows traffic between its members.
            Default: a new one. It has no rule for DNS, because security groups do not apply to Amazon's resolver; for
            your own resolver, add a rule to `connections`.

    Raises:
        ValueError: If the arguments describe a fleet that cannot work; the message names the argument and the value.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        vpc: ec2.IVpc,
        instance_types: Sequence[str | ec2.InstanceType],
        max_gpus: int,
        vpc_subnets: ec2.SubnetSelection | None = None,
        on_demand_base_gpus: int = 0,
        allow_heterogeneous_gpus: bool = False,
        spot: bool = True,
        efa: bool = False,
        capacity_plan: CapacityPlan | None = None,
        capacity_reservation: CapacityReservation | None = None,
        machine_image: ec2.IMachineImage | str | None = None,
        root_device_name: str = "/dev/xvda",
        volume_size: Size | None = None,
        volume_throughput: int = 500,
        encryption_key: kms.IKey | None = None,
        boundary: NetworkBoundary | None = None,
        session_manager: bool = False,
        role: iam.IRole | None = None,
        security_group: ec2.ISecurityGroup | None = None,
    ) -> None:
        capacity = GpuCapacity.of(
            [each if isinstance(each, str) else each.to_string() for each in instance_types],
            max_gpus=max_gpus,
            on_demand_base_gpus=on_demand_base_gpus,
            allow_heterogeneous_gpus=allow_heterogeneous_gpus,
        )
        refuse_throughput(volume_throughput)
        adapters = common_efa_interfaces(capacity.instance_types) if efa else 0
        pinned = PinnedImage(machine_image) if isinstance(machine_image, str) else machine_image
        super().__init__(scope, id)
        subnets = select_subnets(vpc, vpc_subnets)
        if efa:
            refuse_public_subnets(subnets, vpc=vpc)
        zones = zones_of(subnets, stack=Stack.of(vpc))
        if capacity_reservation is not None:
            capacity_reservation.check(capacity, spot=spot, zones=len(zones))
        self.subnet_ids = tuple(subnets.subnet_ids)
        self.attempts = plan_attempts(
            capacity_plan or CapacityPlan.default(spot=spot, single_zone=efa),
            FleetPlace(
                capacity=capacity,
                spot=spot,
                subnets=self.subnet_ids,
                zones=zones,
                single_zone="a cluster placement group is in one, and 'efa' needs it" if efa else "",
            ),
        )
        self.vpc, self.boundary = vpc, boundary
        self.chosen_image = ChosenImage() if pinned is None else None
        self.capacity = capacity
        self.capacity_reservation = capacity_reservation
        self.spot = spot
        self.efa_interfaces = adapters
        self.role = role or iam.Role(
            self,
            "Role",
            assumed_by=iam.ServicePrincipal("ec2.amazonaws.com"),
            description=f"Nodes of {self.node.path}",
        )
        self.security_group = security_group or self._own_security_group(
            vpc, ways_out=boundary.ways_out if boundary else [ec2.Peer.any_ipv4()]
        )
        self._connections = ec2.Connections(security_groups=[self.security_group])
        self._connections.allow_internally(ec2.Port.all_traffic(), "The ring, between nodes")
        if boundary is not None:
            self.role.add_to_principal_policy(boundary.statement())
        if session_manager:
            let_people_log_in(self, role=self.role)
        self.user_data = ec2.UserData.for_linux()
        self.launch_template = ec2.LaunchTemplate(
            self,
            "LaunchTemplate",
            machine_image=pinned or self.chosen_image,
            user_data=self.user_data,
            role=self.role,
            security_group=self.security_group,
            require_imdsv2=True,
            # The agent's container uses the host's network, so one hop is enough. A container with its own network, one
            # hop further, gets no credentials. EC2 User Guide, "Use the Instance Metadata Service": "going to the
            # container is considered an additional network hop".
            # No `instance_metadata_tags`: with them, EC2 refuses to launch an instance that has a tag whose key has a
            # space or "/", and tags of the stack are propagated to instances (EC2 User Guide, "Access tags for your EC2
            # instances using instance metadata").
            http_put_response_hop_limit=1,
            instance_initiated_shutdown_behavior=ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
            placement_group=(
                ec2.PlacementGroup(self, "PlacementGroup", strategy=ec2.PlacementGroupStrategy.CLUSTER) if efa else None
            ),
            block_devices=[
                root_volume(
                    root_device_name,
                    size=volume_size or Size.gibibytes(200),
                    throughput=volume_throughput,
                    encryption_key=encryption_key,
                )
            ],
        )
        if encryption_key is not None:
            let_auto_scaling_use(encryption_key, stack=Stack.of(self))
        if efa:
            self._add_adapters()
        else:
            warn_of_unused_adapters(self, capacity.instance_types)
        if self.is_block:
            self._take_block()
        self.auto_scaling_group = scaling_group(
            self,
            vpc=vpc,
            vpc_subnets=vpc_subnets,
            launch_template=self.launch_template,
            capacity=capacity,
            max_capacity=self.max_gpus // self.gpus_of_a_unit,
            spot=spot,
            reservation=capacity_reservation,
        )

    @property
    def connections(self) -> ec2.Connections:
        """Network connections of the nodes; by default nothing outside of the fleet can reach them."""
        return self._connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The instances' role. On EC2 the user's script has all permissions that are granted to the fleet."""
        return self.role.grant_principal

    @property
    def fleet_id(self) -> str:
        """
        Name of this fleet in the ledger and in the nodes' environment; plain text, the same at every synthesis.

        The name of the group cannot be used: the launch template, which contains the environment, would refer to the
        group, which refers to the launch template.
        """
        return Names.unique_id(self)

    @property
    def auto_scaling_group_name(self) -> str:
        """Name of the group; a CDK token."""
        return self.auto_scaling_group.auto_scaling_group_name

    @property
    def auto_scaling_group_arn(self) -> str:
        """
        ARN of the group; a CDK token.

        It names this group only, unlike `AutoScalingGroup.auto_scaling_group_arn`, which has a wildcard in place of the
        group's id.
        """
        return self._cfn_group.attr_auto_scaling_group_arn

    @property
    def max_gpus(self) -> int:
        """Most GPUs of the fleet."""
        return self.capacity.max_gpus

    @property
    def on_demand_base_gpus(self) -> int:
        """GPUs that come from On-Demand before any come from Spot."""
        return self.capacity.on_demand_base_gpus

    @property
    def gpu_step(self) -> int:
        """GPUs of the smallest type; a run must ask for a multiple of it."""
        return self.capacity.gpu_step

    @property
    def gpus_of_a_unit(self) -> int:
        """
        GPUs in one unit of the group's capacity.

        With weights, a unit is one GPU. A Capacity Block counts instances, because Auto Scaling accepts it only in
        groups without weights.
        """
        return self.gpu_step if self.is_block else 1

    @property
    def largest_weight(self) -> int:
        """GPUs of the largest type."""
        return self.capacity.largest_weight

    @property
    def max_nodes(self) -> int:
        """Number of nodes if all are of the smallest type."""
        return self.capacity.max_nodes

    @property
    def leader_market(self) -> str:
        """Market of leaders, one of `contract.MARKETS`."""
        return contract.ON_DEMAND if self.on_demand_base_gpus > 0 or not self.spot else contract.SPOT

    def instances_distribution(self, attempt: PlannedAttempt | None = None) -> dict[str, str | int]:
        """
        Return the group's InstancesDistribution in the form of the Auto Scaling API.

        Args:
            attempt: The attempt that is made. Default: none, for the group at rest.
        """
        spot = self.spot if attempt is None else attempt.market == contract.SPOT
        return {
            "OnDemandAllocationStrategy": "prioritized",
            "OnDemandBaseCapacity": self.on_demand_base_gpus,
            "OnDemandPercentageAboveBaseCapacity": 0 if spot else 100,
            "SpotAllocationStrategy": "price-capacity-optimized",
        }

    @property
    def node_environment(self) -> Mapping[str, str]:
        """Environment variables of this fleet's nodes that do not depend on the run."""
        return EFA_ENVIRONMENT if self.efa_interfaces else {}

    @property
    def is_block(self) -> bool:
        """Whether the fleet is a Capacity Block."""
        return self.capacity_reservation is not None and self.capacity_reservation.is_block

    @property
    def _cfn_group(self) -> autoscaling.CfnAutoScalingGroup:
        return cast("autoscaling.CfnAutoScalingGroup", self.auto_scaling_group.node.default_child)

    @property
    def _cfn_launch_template(self) -> ec2.CfnLaunchTemplate:
        return cast("ec2.CfnLaunchTemplate", self.launch_template.node.default_child)

    def _own_security_group(self, vpc: ec2.IVpc, *, ways_out: Sequence[ec2.IPeer]) -> ec2.SecurityGroup:
        security_group = ec2.SecurityGroup(
            self,
            "SecurityGroup",
            vpc=vpc,
            description="GPU nodes: each other, and HTTPS out",
            allow_all_outbound=False,
        )
        for peer in ways_out:
            security_group.add_egress_rule(peer, ec2.Port.tcp(443), "AWS APIs and downloads")
        return security_group

    def _take_block(self) -> None:
        assert self.capacity_reservation is not None
        data = {"InstanceType": self.capacity.instance_types[0].name, **self.capacity_reservation.template_data()}
        for name, value in data.items():
            self._cfn_launch_template.add_property_override(f"LaunchTemplateData.{name}", value)

    def _add_adapters(self) -> None:
        # The launch template construct has no argument for interfaces, and EC2 refuses security groups of the instance
        # in addition to those of its interfaces.
        template = self._cfn_launch_template
        template.add_property_override(
            "LaunchTemplateData.NetworkInterfaces",
            network_interfaces(self.efa_interfaces, security_group_id=self.security_group.security_group_id),
        )
        template.add_property_deletion_override("LaunchTemplateData.SecurityGroupIds")
