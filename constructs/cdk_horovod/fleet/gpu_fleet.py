"""The GPU instances that runs are trained on."""

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
from cdk_horovod.fleet.machine_image import machine_image_of
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

    Each instance type weighs as much as it has GPUs, so a desired capacity of 16 is 16 GPUs, whatever the types. The
    template sets no desired capacity: the state machine of each run does, and a deployment leaves it alone. Nothing
    else scales the group.

    Creates: a launch template, a group, a role without any permission, and a security group that lets in nothing but
    its own members and lets out HTTPS. With *efa*, a cluster placement group too. Instances use instance metadata
    version 2 only and encrypted volumes; one that shuts itself down is terminated.

    Of the types that have no more GPUs than a run asks for, On-Demand takes the one with the fewest (`prioritized`),
    and Spot the one with the best balance of price and spare capacity (`price-capacity-optimized`, which AWS
    recommends for training). At rest it costs nothing.

    Args:
        vpc:
            Network of the nodes.

        vpc_subnets:
            Where in it. `TrainingNetwork.subnets` for a network of ours.
            Default: private subnets, else isolated, else public ones.

        instance_types:
            1 to 40 types, each a name or an `ec2.InstanceType`, which all can start a node: `["g5.12xlarge", …]`. The
            more types, the more often Spot has some. See `cdk_horovod.fleet.gpu_types`.

        max_gpus:
            GPUs that the fleet never exceeds. A multiple of the GPUs of the smallest type, and at most 600 nodes of it.

        on_demand_base_gpus:
            GPUs that come from On-Demand before any come from Spot. Above zero, the leader of each run is On-Demand.
            A multiple of the GPUs of the smallest type.
            Default: 0.

        allow_heterogeneous_gpus:
            Whether types with different GPU models may be mixed. The slowest GPU sets the pace of the ring.
            Default: they may not.

        spot:
            Whether GPUs above *on_demand_base_gpus* come from Spot; else everything is On-Demand.
            Default: they do.

        efa:
            Whether nodes get Elastic Fabric Adapters, the settings for them and a cluster placement group, for rings
            of many large nodes. Needs types with the same number of adapters, and private subnets. A cluster placement
            group is in one Availability Zone, so a run's nodes are, too. The image needs EFA's software, or gets the
            machine image's (docs/efa.md).
            Default: off.

        capacity_plan:
            Where a run's nodes are looked for, and in which order. See `CapacityPlan`.
            Default: Spot in any zone, then in each, then On-Demand; with *efa* Spot in each zone, then On-Demand in
            each; without *spot* On-Demand.

        capacity_reservation:
            Capacity that was reserved before. See `CapacityReservation`. A Capacity Block needs its own type alone,
            subnets in its zone, and no *spot*.
            Default: none.

        machine_image:
            Image with an NVIDIA driver, Docker and the NVIDIA container toolkit, or an AMI's id, `"ami-…"`, to stay
            with one until you name another: `aws ssm get-parameter --name DEEP_LEARNING_AMI`, with the parameter's
            name, says which is the newest in your Region. Must be given for P3, whose GPUs current drivers no longer
            support.
            Default: the newest Deep Learning Base GPU AMI at each deployment, `machine_image.DEEP_LEARNING_AMI`.

        root_device_name:
            Name of the image's root volume: `/dev/sda1` for Ubuntu.
            Default: `/dev/xvda`, that of Amazon Linux.

        volume_size:
            Root volume of each node, for the container image, and for data on types without NVMe.
            Default: 200 GiB.

        volume_throughput:
            Of the root volume, in MiB/s, from 125 to 1000. With the 125 of every gp3 volume, writing an image of 8 GB
            takes more than a minute of idle GPUs; what is above costs 0.04 USD a month for each MiB/s, so 500 costs
            0.02 USD an hour of a node (Amazon EBS pricing, 2026, us-east-1).
            Default: 500.

        encryption_key:
            KMS key for the volumes. A key of this app is made to let EC2 Auto Scaling use it; an imported one must.
            Default: the account's `aws/ebs` key.

        boundary:
            What nodes may reach, `TrainingNetwork.boundary`: HTTPS leaves to there only, and the role's credentials
            are refused wherever a call does not come through an endpoint of the network.
            Default: HTTPS to everywhere, and credentials that know no place.

        session_manager:
            Whether people whom IAM lets start a session (`ssm:StartSession`) may log in to nodes, to look into one
            that failed to boot. They are root there, and thus act with all that a node may. In `ISOLATED` the network
            needs the option of the same name.
            Default: nobody can log in.

        role:
            Role that nodes assume; `ec2.amazonaws.com` must be allowed to assume it.
            Default: a new role that holds only what grants add.

        security_group:
            Security group of the nodes. It is made to let its members talk to each other.
            Default: a new one. It has no rule for DNS because security groups do not apply to Amazon's resolver; with
            a resolver of your own, add one to `connections`.

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
        if machine_image is None:
            capacity.refuse_types_without_driver()
        refuse_throughput(volume_throughput)
        adapters = common_efa_interfaces(capacity.instance_types) if efa else 0
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
        self.capacity = capacity
        self.capacity_reservation = capacity_reservation
        self.spot = spot
        self.efa = efa
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
            machine_image=machine_image_of(machine_image),
            user_data=self.user_data,
            role=self.role,
            security_group=self.security_group,
            require_imdsv2=True,
            # The agent's container has the host's network, so nothing is further away than the instance itself, and a
            # container with a network of its own, which is one more hop, gets no credentials. EC2 User Guide, "Use the
            # Instance Metadata Service": "going to the container is considered an additional network hop".
            # No `instance_metadata_tags`: EC2 refuses to start an instance that has them and a tag whose key has a
            # space or "/", and a group's tags come from its stack (EC2 User Guide, "Access tags for your EC2 instances
            # using instance metadata").
            http_put_response_hop_limit=1,
            instance_initiated_shutdown_behavior=ec2.InstanceInitiatedShutdownBehavior.TERMINATE,
            placement_group=self._cluster_placement_group() if efa else None,
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
            self._add_adapters(adapters)
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
        """Who may reach the nodes, and whom they may reach; nothing outside of the fleet reaches them by itself."""
        return self._connections

    @property
    def grant_principal(self) -> iam.IPrincipal:
        """The nodes' role: what is granted to the fleet, the user's script may do."""
        return self.role.grant_principal

    @property
    def fleet_id(self) -> str:
        """
        Name of this fleet in the ledger and in the nodes' environment; plain text, the same at every synthesis.

        The group's own name cannot serve: the launch template, which carries the environment, would have to refer to
        the group, which refers to the launch template.
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

        Unlike `AutoScalingGroup.auto_scaling_group_arn`, which has a wildcard in place of the group's id, it names
        this group only.
        """
        return self._cfn_group.attr_auto_scaling_group_arn

    @property
    def max_gpus(self) -> int:
        """GPUs that the fleet never exceeds."""
        return self.capacity.max_gpus

    @property
    def on_demand_base_gpus(self) -> int:
        """GPUs that come from On-Demand first."""
        return self.capacity.on_demand_base_gpus

    @property
    def gpu_step(self) -> int:
        """GPUs of the smallest type; what a run asks for must be a multiple of it."""
        return self.capacity.gpu_step

    @property
    def gpus_of_a_unit(self) -> int:
        """
        GPUs that one unit of the group's capacity is.

        Weights make it one GPU. A Capacity Block, which Auto Scaling takes in groups without weights only, counts
        instances.
        """
        return self.gpu_step if self.is_block else 1

    @property
    def largest_weight(self) -> int:
        """GPUs of the largest type."""
        return self.capacity.largest_weight

    @property
    def max_nodes(self) -> int:
        """Nodes when all are of the smallest type."""
        return self.capacity.max_nodes

    @property
    def leader_market(self) -> str:
        """Market that leaders come from, as `contract.MARKETS` names it."""
        return contract.ON_DEMAND if self.on_demand_base_gpus > 0 or not self.spot else contract.SPOT

    def instances_distribution(self, attempt: PlannedAttempt | None = None) -> dict[str, str | int]:
        """
        Write how the group divides its capacity between the markets, as the Auto Scaling API takes it.

        Args:
            attempt: The attempt that is made. Default: what the template says, which holds while no run does.
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
        """What this fleet's nodes need in their environment, whatever run they work for."""
        return EFA_ENVIRONMENT if self.efa else {}

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

    def _cluster_placement_group(self) -> ec2.PlacementGroup:
        return ec2.PlacementGroup(self, "PlacementGroup", strategy=ec2.PlacementGroupStrategy.CLUSTER)

    def _take_block(self) -> None:
        assert self.capacity_reservation is not None
        data = {"InstanceType": self.capacity.instance_types[0].name, **self.capacity_reservation.template_data()}
        for name, value in data.items():
            self._cfn_launch_template.add_property_override(f"LaunchTemplateData.{name}", value)

    def _add_adapters(self, adapters: int) -> None:
        # The launch template construct has no arguments for this, and EC2 refuses security groups of the instance
        # beside those of its interfaces.
        template = self._cfn_launch_template
        template.add_property_override(
            "LaunchTemplateData.NetworkInterfaces",
            network_interfaces(adapters, security_group_id=self.security_group.security_group_id),
        )
        template.add_property_deletion_override("LaunchTemplateData.SecurityGroupIds")
