"""The Auto Scaling group of a fleet, with weights, markets and reserved capacity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from aws_cdk import aws_autoscaling as autoscaling
from aws_cdk import aws_ec2 as ec2

from cdk_horovod.acknowledgements import acknowledge

if TYPE_CHECKING:
    from constructs import Construct

    from cdk_horovod.fleet.capacity_attempt import GpuCapacity
    from cdk_horovod.fleet.capacity_reservation import CapacityReservation


RESTING_VERSION: Final = "1"
"""
Version of the launch template in the CloudFormation template's group, whatever the newest version is.

If a property of the group changed, a deployment during a run would reset the group to the policy of its template, and
replace nodes of another market. With a literal the group does not change, even if a new machine image makes a new
version. Each run sets the newest version when it starts its nodes.
"""


def scaling_group(
    scope: Construct,
    *,
    vpc: ec2.IVpc,
    vpc_subnets: ec2.SubnetSelection | None,
    launch_template: ec2.LaunchTemplate,
    capacity: GpuCapacity,
    max_capacity: int,
    spot: bool,
    reservation: CapacityReservation | None,
) -> autoscaling.AutoScalingGroup:
    """
    Create a group that rests at zero, without a desired capacity.

    Args:
        scope: The fleet.
        vpc: Network of the instances.
        vpc_subnets: Subnets of the instances.
        launch_template: Launch template of the instances.
        capacity: Instance types with their GPUs, and the On-Demand base.
        max_capacity: Maximum size of the group, in its unit of capacity.
        spot: Whether capacity above the On-Demand base comes from Spot.
        reservation: Reserved capacity, if any.
    """
    group = autoscaling.AutoScalingGroup(
        scope,
        "Group",
        vpc=vpc,
        vpc_subnets=vpc_subnets,
        min_capacity=0,
        max_capacity=max_capacity,
        group_metrics=[autoscaling.GroupMetrics.all()],
        mixed_instances_policy=autoscaling.MixedInstancesPolicy(
            launch_template=launch_template,
            launch_template_overrides=[
                autoscaling.LaunchTemplateOverrides(
                    instance_type=ec2.InstanceType(row.name), weighted_capacity=row.gpus
                )
                for row in capacity.smallest_first
            ],
            instances_distribution=autoscaling.InstancesDistribution(
                on_demand_base_capacity=capacity.on_demand_base_gpus,
                on_demand_percentage_above_base_capacity=0 if spot else 100,
                on_demand_allocation_strategy=autoscaling.OnDemandAllocationStrategy.PRIORITIZED,
                spot_allocation_strategy=autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED,
            ),
        ),
    )
    # cdk-nag 3.0.2's rule EC26 (encrypted volumes) reads the group's launch template, and throws an exception if only
    # the mixed-instances policy has one. It is set here for the rule, and removed from the template below.
    cfn_group = cast("autoscaling.CfnAutoScalingGroup", group.node.default_child)
    cfn_group.launch_template = autoscaling.CfnAutoScalingGroup.LaunchTemplateSpecificationProperty(
        launch_template_id=launch_template.launch_template_id,
        version=RESTING_VERSION,
    )
    if reservation is not None and reservation.is_block:
        # Auto Scaling User Guide, "Use Capacity Blocks for machine learning workloads": no mixed instances groups.
        cfn_group.add_property_deletion_override("MixedInstancesPolicy")
    else:
        cfn_group.add_property_deletion_override("LaunchTemplate")
        cfn_group.add_property_override(
            "MixedInstancesPolicy.LaunchTemplate.LaunchTemplateSpecification.Version", RESTING_VERSION
        )
    if reservation is not None and not reservation.is_block:
        cfn_group.capacity_reservation_specification = reservation.group_specification()
    acknowledge(
        group,
        rule="AS3",
        reason="Each run reads its fleet's scaling activities and records them; a topic would have no reader.",
    )
    return group
