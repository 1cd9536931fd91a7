"""Auto Scaling requests about single instances, standby, cooldown, activities and scale-in protection."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from horovod_local.corrections import launches, scaling_activities
from horovod_local.corrections.registry import correction
from horovod_local.corrections.scaling_activities import MAX_RECORDS, ScalingActivity

MAX_INSTANCES: Final = 100
"""Instances of one TerminateInstanceInAutoScalingGroup: "You can specify up to 100 instances"."""


@correction(
    moto="decrements the desired capacity by 1, whatever the instance's weight, and answers an unknown one with 500",
    aws="decrements it by the weight, never below the minimum, and refuses instances that are in no group",
)
def terminating_one_instance_counts_its_weight() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.core.responses import ActionResult

    def terminate(self: Any) -> Any:
        one, many = self._get_param("InstanceId"), self._get_param("InstanceIds", [])
        name = self._get_param("AutoScalingGroupName")
        if bool(one) == bool(many) or (many and not name) or len(many) > MAX_INSTANCES:
            raise ValidationError(
                f"Valid requests must contain either InstanceId, or AutoScalingGroupName and up to {MAX_INSTANCES} "
                "InstanceIds."
            )
        decrements = self._get_bool_param("ShouldDecrementDesiredCapacity", False)
        found = [_member(self.autoscaling_backend, instance_id, name) for instance_id in many or [one]]
        if decrements:
            ending = [state for _, state in found if state.lifecycle_state != launches.TERMINATING]
            _decrement(found[0][0], sum(launches.weight_of(state) for state in ending))
        for group, state in found:
            if state.lifecycle_state != launches.TERMINATING:
                cause = "An instance was taken out of service in response to a user request."
                launches.begin_terminations(group, [state], cause=cause, by_id=True)
        for group, _ in found:
            launches.reconcile(group)
        activities = [state.activity for _, state in found]
        return ActionResult({"Activities": activities} if many else {"Activity": activities[0]})

    AutoScalingResponse.terminate_instance_in_auto_scaling_group = terminate


@correction(
    moto="counts an instance on standby as one unit, whatever its weight, and lets any instance enter standby",
    aws="changes the capacity by its weight, never below the minimum, and accepts only instances in service",
)
def standby_counts_the_weight() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import AutoScalingBackend, EnterStandbyActivity, ExitStandbyActivity

    def states_of(backend: Any, name: str, ids: list[str], lifecycle_state: str) -> tuple[Any, list[Any]]:
        states = [_member(backend, instance_id, name)[1] for instance_id in ids]
        for state in states:
            if state.lifecycle_state != lifecycle_state:
                raise ValidationError(f"The instance {state.instance.id} is not in {lifecycle_state}.")
        return backend.autoscaling_groups[name], states

    def enter(self: Any, group_name: str, instance_ids: list[str], should_decrement: bool) -> Any:
        group, states = states_of(self, group_name, instance_ids, launches.IN_SERVICE)
        before = group.desired_capacity
        if should_decrement:
            _decrement(group, sum(launches.weight_of(state) for state in states))
        for state in states:
            state.lifecycle_state = launches.STANDBY
        launches.reconcile(group)
        return [EnterStandbyActivity(state.instance, before) for state in states]

    def leave(self: Any, group_name: str, instance_ids: list[str]) -> Any:
        group, states = states_of(self, group_name, instance_ids, launches.STANDBY)
        before = group.desired_capacity
        for state in states:
            state.lifecycle_state = launches.IN_SERVICE
            group.desired_capacity += launches.weight_of(state)
        return [ExitStandbyActivity(state.instance, before) for state in states]

    AutoScalingBackend.enter_standby_instances = enter
    AutoScalingBackend.exit_standby_instances = leave


@correction(
    moto="ignores HonorCooldown",
    aws="refuses a new capacity with HonorCooldown until the cooldown after the last scaling activity is over",
)
def cooldowns_may_be_honoured() -> None:
    from moto.autoscaling.exceptions import AutoscalingClientError
    from moto.autoscaling.responses import AutoScalingResponse

    set_desired_capacity = AutoScalingResponse.set_desired_capacity

    def set_when_cool(self: Any) -> Any:
        group = self.autoscaling_backend.autoscaling_groups.get(self._get_param("AutoScalingGroupName"))
        noted = scaling_activities.of(group) if group is not None else []
        if noted and self._get_bool_param("HonorCooldown", False):
            ended = noted[0].end_time
            if ended is None or time.time() < ended.timestamp() + int(group.default_cooldown):
                raise AutoscalingClientError(
                    "ScalingActivityInProgress",
                    f"Scaling activity {noted[0].activity_id} is in progress and blocks this action",
                )
        return set_desired_capacity(self)

    AutoScalingResponse.set_desired_capacity = set_when_cool


@correction(
    moto="answers DescribeScalingActivities with an empty list",
    aws="lists launches and terminations, unfinished ones first, refused launches with EC2's message as StatusMessage",
)
def scaling_activities_are_listed() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.responses import AutoScalingResponse
    from moto.core.responses import ActionResult

    def describe_scaling_activities(self: Any) -> Any:
        name, wanted = self._get_param("AutoScalingGroupName"), self._get_param("ActivityIds", [])
        groups = [group for group in self.autoscaling_backend.autoscaling_groups.values() if name in (None, group.name)]
        found = [
            activity
            for activity in scaling_activities.in_order(
                item for group in groups for item in scaling_activities.of(group)
            )
            if (not wanted or activity.activity_id in wanted)
            and all(_matches_filter(activity, item["Name"], item["Values"]) for item in self._get_param("Filters", []))
        ]
        start, count = int(self._get_param("NextToken") or 0), self._get_int_param("MaxRecords") or MAX_RECORDS
        if count > MAX_RECORDS:
            raise ValidationError(f"MaxRecords must be at most {MAX_RECORDS}, got {count}")
        more = str(start + count) if len(found) > start + count else None
        return ActionResult({"Activities": found[start : start + count], "NextToken": more})

    AutoScalingResponse.describe_scaling_activities = describe_scaling_activities


@correction(
    moto="silently accepts the protection of instances that are not in the group",
    aws="refuses it, and terminates nothing when protection is lifted: the group is in equilibrium",
)
def lifting_protection_changes_no_capacity() -> None:
    from moto.autoscaling.exceptions import ValidationError
    from moto.autoscaling.models import AutoScalingBackend

    protect = AutoScalingBackend.set_instance_protection

    def set_instance_protection(
        self: Any, group_name: str, instance_ids: list[str], protected_from_scale_in: bool | None
    ) -> None:
        group = self.autoscaling_groups.get(group_name)
        if group is None:
            raise ValidationError("AutoScalingGroup name not found - null")
        for instance_id in instance_ids:
            if _state_of(group, instance_id) is None:
                raise ValidationError(f"The instance {instance_id} is not part of Auto Scaling group {group_name}.")
        protect(self, group_name, instance_ids, protected_from_scale_in)

    AutoScalingBackend.set_instance_protection = set_instance_protection


def _member(backend: Any, instance_id: str, name: str | None = None) -> tuple[Any, Any]:
    """Return the group *name*, or any group, that has the instance, and the instance's state in it."""
    from moto.autoscaling.exceptions import ValidationError

    if name is not None and name not in backend.autoscaling_groups:
        raise ValidationError("AutoScalingGroup name not found - null")
    for group in backend.autoscaling_groups.values():
        state = _state_of(group, instance_id)
        if state is not None and name in (None, group.name):
            return group, state
    raise ValidationError(f"Instance Id not found - No managed instance found for instance ID: {instance_id}")


def _decrement(group: Any, weight: int) -> None:
    from moto.autoscaling.exceptions import ValidationError

    if group.desired_capacity - weight < group.min_size:
        raise ValidationError(
            f"Currently, desiredSize equals minSize ({group.min_size}). Terminating instance without replacement will "
            "violate group's min size constraint. Please either set shouldDecrementDesiredCapacity flag to false or "
            "lower group's min size constraint."
        )
    group.desired_capacity -= weight


def _state_of(group: Any, instance_id: str) -> Any:
    return next((state for state in group.instance_states if state.instance.id == instance_id), None)


def _matches_filter(activity: ScalingActivity, name: str, values: list[str]) -> bool:
    if name == "Status":
        return activity.status_code in values
    moments = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in map(_moment, values)]
    if name == "StartTimeLowerBound":
        return all(activity.start_time >= moment for moment in moments)
    return all(activity.start_time <= moment for moment in moments)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


CORRECTIONS = (
    terminating_one_instance_counts_its_weight,
    standby_counts_the_weight,
    cooldowns_may_be_honoured,
    scaling_activities_are_listed,
    lifting_protection_changes_no_capacity,
)
