"""Auto Scaling groups: their capacity, updates, deletion and attributes."""

from __future__ import annotations

import copy
import math
from typing import Any

from horovod_local.corrections import allocation, launches
from horovod_local.corrections.registry import correction


@correction(
    moto="launches the template's own type in the first subnet, On-Demand, as many as the first override's weight asks",
    aws="fills a mixed-instances policy by weights, On-Demand base first, in the order of its allocation strategies",
)
def groups_fill_by_weight() -> None:
    from moto.autoscaling.models import FakeAutoScalingGroup

    original_set, original_replace = (
        FakeAutoScalingGroup.set_desired_capacity,
        FakeAutoScalingGroup.replace_autoscaling_group_instances,
    )

    def set_desired_capacity(self: Any, new_capacity: int | None) -> None:
        if self.ec2_launch_template is None:
            original_set(self, new_capacity)
            return
        before = getattr(self, "desired_capacity", None)
        self.desired_capacity = self.min_size if new_capacity is None else new_capacity
        if before is not None and self.desired_capacity < before:
            launches.request_scale_in(self)
        launches.reconcile(self)

    def replace(self: Any, count_needed: int, propagated_tags: dict[str, str]) -> None:
        if self.ec2_launch_template is None:
            original_replace(self, count_needed, propagated_tags)
            return
        launches.reconcile(self)

    FakeAutoScalingGroup.set_desired_capacity = set_desired_capacity
    FakeAutoScalingGroup.replace_autoscaling_group_instances = replace


@correction(
    moto="accepts a desired capacity outside a group's minimum and maximum",
    aws="refuses it with a ValidationError that names the bound",
)
def capacity_stays_within_bounds() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import AutoScalingBackend

    set_desired_capacity = AutoScalingBackend.set_desired_capacity

    def set_within_bounds(self: Any, group_name: str, desired_capacity: int | None) -> None:
        group = self.autoscaling_groups.get(group_name)
        if group is None:
            raise ValidationError("AutoScalingGroup name not found - null")
        if desired_capacity is not None and desired_capacity > group.max_size:
            raise ValidationError(
                f"New SetDesiredCapacity value {desired_capacity} is above max value {group.max_size} "
                "for the AutoScalingGroup."
            )
        if desired_capacity is not None and desired_capacity < group.min_size:
            raise ValidationError(
                f"New SetDesiredCapacity value {desired_capacity} is below min value {group.min_size} "
                "for the AutoScalingGroup."
            )
        set_desired_capacity(self, group_name, desired_capacity)

    AutoScalingBackend.set_desired_capacity = set_within_bounds


@correction(
    moto="erases a group's mixed-instances policy when an update does not repeat it, and accepts any desired capacity",
    aws="keeps what an update does not name, and refuses a desired capacity outside the bounds",
)
def updates_keep_what_they_do_not_name() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import FakeAutoScalingGroup

    update = FakeAutoScalingGroup.update

    def update_named(self: Any, **change: Any) -> None:
        lowest = self.min_size if change.get("min_size") is None else change["min_size"]
        highest = self.max_size if change.get("max_size") is None else change["max_size"]
        desired = change.get("desired_capacity")
        if desired is not None and not lowest <= desired <= highest:
            raise ValidationError(
                f"Desired capacity:{desired} must be between the specified min size:{lowest} and max size:{highest}"
            )
        if desired is None and not lowest <= (self.desired_capacity or 0) <= highest:
            # moto compares the bounds with the number of instances, AWS with the capacity.
            change["desired_capacity"] = max(lowest, min(self.desired_capacity or 0, highest))
        named = change.get("mixed_instances_policy")
        if named:
            kept = allocation.distribution(self)
            named["InstancesDistribution"] = {**kept, **(named.get("InstancesDistribution") or {})}
        elif not (change.get("launch_template") or change["launch_config_name"]):
            change["mixed_instances_policy"] = _policy_of(self)
        update(self, **change)

    FakeAutoScalingGroup.update = update_named


@correction(
    moto="leaves running instances alone when a policy's shares of On-Demand and Spot change",
    aws="replaces those that no longer fit, one after the other, launching before terminating",
)
def changed_market_shares_replace_instances() -> None:
    from moto.autoscaling.models import FakeAutoScalingGroup

    update = FakeAutoScalingGroup.update

    def update_and_replace(self: Any, **change: Any) -> None:
        before = allocation.market_shares(self)
        update(self, **change)
        if self.mixed_instances_policy and allocation.market_shares(self) != before:
            launches.replace_for_markets(self)

    FakeAutoScalingGroup.update = update_and_replace


@correction(
    moto="replaces a group when CloudFormation changes any property of it",
    aws="changes the group in place",
)
def stack_updates_change_groups_in_place() -> None:
    from moto.autoscaling.models import FakeAutoScalingGroup

    def update(*, original_resource: Any, cloudformation_json: dict[str, Any], **_identity: Any) -> Any:
        properties = cloudformation_json["Properties"]
        original_resource.update(
            availability_zones=properties.get("AvailabilityZones", []),
            desired_capacity=_int_or_none(properties.get("DesiredCapacity")),
            max_size=_int_or_none(properties["MaxSize"]),
            min_size=_int_or_none(properties["MinSize"]),
            launch_config_name=properties.get("LaunchConfigurationName"),
            launch_template=properties.get("LaunchTemplate", {}),
            vpc_zone_identifier=",".join(properties.get("VPCZoneIdentifier", [])) or None,
            health_check_period=_int_or_none(properties.get("HealthCheckGracePeriod")),
            health_check_type=properties.get("HealthCheckType"),
            new_instances_protected_from_scale_in=properties.get("NewInstancesProtectedFromScaleIn"),
            mixed_instances_policy=properties.get("MixedInstancesPolicy"),
        )
        original_resource.tags = properties.get("Tags", [])
        return original_resource

    FakeAutoScalingGroup.update_from_cloudformation_json = staticmethod(update)


@correction(
    moto="replaces terminated instances at once and one for one, and records no scaling activities for them",
    aws="replaces the missing capacity a while later, and records both as scaling activities",
)
def terminated_instances_leave_their_group() -> None:
    from moto.autoscaling.models import AutoScalingBackend

    def notify_terminate_instances(self: Any, instance_ids: list[str]) -> None:
        for group in list(self.autoscaling_groups.values()):
            cause = "An instance was taken out of service in response to an EC2 health check indicating it has been "
            if launches.remove_ended(group, instance_ids, cause=cause + "terminated or stopped."):
                launches.reconcile_soon(group)

    AutoScalingBackend.notify_terminate_instances = notify_terminate_instances


@correction(
    moto="leaves a group's protected instances running when the group is deleted",
    aws="leaves no instance of a deleted group running",
)
def deleting_a_group_terminates_all_of_it() -> None:
    from moto.autoscaling.models import AutoScalingBackend

    delete = AutoScalingBackend.delete_auto_scaling_group

    def delete_auto_scaling_group(self: Any, group_name: str) -> None:
        group = self.autoscaling_groups.get(group_name)
        if group is not None:
            group.min_size = 0
            for state in group.instance_states:
                state.protected_from_scale_in = False
                if state.lifecycle_state in (launches.STANDBY, launches.RETAINED):
                    state.lifecycle_state = launches.IN_SERVICE
            launches.request_scale_in(group)
        delete(self, group_name)
        if group is not None:
            launches.cancel_launches(group)
            launches.finish_terminations(group, now=math.inf)

    AutoScalingBackend.delete_auto_scaling_group = delete_auto_scaling_group


@correction(
    moto="has no attribute of a group for Fn::GetAtt",
    aws="returns its ARN as the attribute AutoScalingGroupARN",
)
def groups_have_their_arn_as_attribute() -> None:
    from moto.autoscaling.models import FakeAutoScalingGroup
    from moto.cloudformation.exceptions import UnformattedGetAttTemplateException

    def get_cfn_attribute(self: Any, attribute_name: str) -> str:
        if attribute_name == "AutoScalingGroupARN":
            return str(self.arn)
        raise UnformattedGetAttTemplateException()

    FakeAutoScalingGroup.get_cfn_attribute = get_cfn_attribute


def _policy_of(group: Any) -> Any:
    """Return the policy of *group* as a request takes it; moto refuses a template that is named by id and by name."""
    policy = copy.deepcopy(group.mixed_instances_policy)
    specification = ((policy or {}).get("LaunchTemplate") or {}).get("LaunchTemplateSpecification") or {}
    if specification.get("LaunchTemplateId"):
        specification.pop("LaunchTemplateName", None)
    return policy


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


CORRECTIONS = (
    groups_fill_by_weight,
    capacity_stays_within_bounds,
    updates_keep_what_they_do_not_name,
    changed_market_shares_replace_instances,
    stack_updates_change_groups_in_place,
    terminated_instances_leave_their_group,
    deleting_a_group_terminates_all_of_it,
    groups_have_their_arn_as_attribute,
)
