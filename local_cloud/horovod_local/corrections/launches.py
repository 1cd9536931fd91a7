"""
How an Auto Scaling group reaches its desired capacity: launches, terminations and replacements.

Sources: Auto Scaling User Guide, "Auto Scaling groups with multiple instance types and purchase options", "Use instance
scale-in protection to control instance termination", "Temporarily remove instances from your Auto Scaling group" and
"Configure instance retention"; CloudFormation Template Reference, `InstancesDistribution`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.corrections import scaling_activities
from horovod_local.corrections.allocation import (
    ON_DEMAND,
    SPOT,
    LaunchOption,
    candidates,
    on_demand_capacity,
    refusal_message,
)
from horovod_local.corrections.scaling_activities import (
    CANCELLED,
    FAILED,
    PRE_IN_SERVICE,
    WAITING_FOR_INSTANCE,
    ScalingActivity,
)
from horovod_local.shared.faults import ACTIVE_FAULTS

PENDING: Final = "Pending"
IN_SERVICE: Final = "InService"
STANDBY: Final = "Standby"
TERMINATING: Final = "Terminating"
"""Lifecycle state of an instance that still runs but no longer counts as capacity."""
RETAINED: Final = "Terminating:Retained"
"""
Lifecycle state of an instance whose termination was abandoned under an instance lifecycle policy. It runs, does not
count as capacity, and stays until TerminateInstanceInAutoScalingGroup.
"""
COUNTED: Final = (PENDING, IN_SERVICE)

PAUSE_SECONDS: Final = 1.0
"""Pause before a group replaces lost instances or retries a refused launch; AWS takes a minute or more."""

_lock: Final = threading.RLock()
"""Guards the groups: moto has no locks, and an instance may end while a state machine scales."""


@dataclass(kw_only=True)
class Launch:
    """A launch that EC2 has not answered. It counts as capacity, but the group lists no instance for it yet."""

    option: LaunchOption
    market: str
    subnet: str | None
    zone: str
    requested_at: float
    activity: ScalingActivity


def reconcile(group: Any) -> None:
    """Launch missing capacity of *group*, and terminate surplus, unless these processes are suspended."""
    with _lock:
        suspended = group._suspended_processes
        if "Launch" not in suspended:
            _launch_missing(group)
        if "Terminate" not in suspended:
            _terminate_surplus(group)


def request_scale_in(group: Any) -> None:
    """
    Allow the next `reconcile` to terminate surplus instances, which it otherwise does not.

    A group scales in once for each cause: a lower desired capacity, or an instance that arrived too late. Protected
    instances then stay: "Could not scale to desired capacity because all remaining instances are protected from scale
    in". After that the group is in equilibrium; neither lifting the protection nor asking for the same capacity is a
    new cause.
    """
    group.scale_in_requested = True


def reconcile_soon(group: Any) -> None:
    """Reconcile *group* after `PAUSE_SECONDS`, so that instances that keep failing are not replaced in a tight loop."""
    group.reconcile_at = time.monotonic() + PAUSE_SECONDS


def replace_for_markets(group: Any) -> None:
    """
    Begin to replace the instances of *group* that do not fit its new shares of On-Demand and Spot.

    CloudFormation Template Reference, `InstancesDistribution`, on base and percentage alike: an update "means a gradual
    replacement of instances to adjust the current On-Demand Instances; it launches new instances before terminating the
    previous ones". The leader of a run is not spared.
    """
    if group.instance_states or unanswered_launches(group):
        group.replacing, group.replace_at = True, time.monotonic() + PAUSE_SECONDS


def advance(group: Any, *, now: float) -> None:
    """Bring *group* to the time *now*: answer launches, put instances into service, end terminations, reconcile."""
    with _lock:
        for launch in list(unanswered_launches(group)):
            if now >= launch.requested_at + ACTIVE_FAULTS.faults.launch_answer_seconds:
                _receive_instance(group, launch)
        for state in group.instance_states:
            if state.lifecycle_state == PENDING and now >= state.since + ACTIVE_FAULTS.faults.launch_delay_seconds:
                _enter_service(state)
        finish_terminations(group, now=now)
        reconcile_at = getattr(group, "reconcile_at", None)
        if reconcile_at is not None and now >= reconcile_at:
            reconcile(group)
        if getattr(group, "replacing", False) and now >= group.replace_at:
            _replace_next(group, now=now)


def remove_ended(group: Any, instance_ids: Sequence[str], *, cause: str) -> list[Any]:
    """Remove instances that no longer run from *group* and return them, without replacing them yet."""
    with _lock:
        gone = [state for state in group.instance_states if state.instance.id in instance_ids]
        group.instance_states = [state for state in group.instance_states if state not in gone]
        for state in gone:
            _finish_launch(state, CANCELLED)
            if state.lifecycle_state == TERMINATING:
                state.activity.finish()
            else:
                _note_termination(group, state, cause).finish()
        return gone


def begin_terminations(group: Any, states: Sequence[Any], *, cause: str, by_id: bool = False) -> None:
    """
    Begin to terminate instances of *group*, which no longer count as capacity.

    They run on for the fault `termination_delay_seconds`, or stay under the fault `terminations_retained`.

    Args:
        group: The group.
        states: The instances.
        cause: Cause of their scaling activities.
        by_id: Whether the instances were named in a request; such instances are not retained.
    """
    now = time.monotonic()
    with _lock:
        for state in states:
            _finish_launch(state, CANCELLED)
            state.activity = _note_termination(group, state, cause)
            if ACTIVE_FAULTS.faults.terminations_retained and not by_id:
                state.lifecycle_state = RETAINED
                state.activity.finish(CANCELLED, why="The lifecycle action was abandoned; the instance is retained.")
                continue
            state.lifecycle_state, state.since = TERMINATING, now
            state.instance._state.name, state.instance._state.code = "shutting-down", 32
        finish_terminations(group, now=now)


def finish_terminations(group: Any, *, now: float) -> None:
    """Terminate the instances of *group* whose `termination_delay_seconds` are over."""
    with _lock:
        delay = ACTIVE_FAULTS.faults.termination_delay_seconds
        gone = [
            state
            for state in group.instance_states
            if state.lifecycle_state == TERMINATING and now >= state.since + delay
        ]
        if not gone:
            return
        group.instance_states = [state for state in group.instance_states if state not in gone]
        group.ec2_backend.terminate_instances([state.instance.id for state in gone])
        for state in gone:
            state.activity.finish()


def cancel_launches(group: Any) -> None:
    """Cancel the unanswered launches of a group that is being deleted."""
    with _lock:
        for launch in unanswered_launches(group):
            launch.activity.finish(CANCELLED)
        unanswered_launches(group).clear()


def unanswered_launches(group: Any) -> list[Launch]:
    """Return the launches of *group* that EC2 has not answered yet."""
    unanswered: list[Launch] = group.__dict__.setdefault("unanswered_launches", [])
    return unanswered


def weight_of(state: Any) -> int:
    """Return the weight of an instance: its share of the group's capacity."""
    return int(getattr(state, "weighted_capacity", None) or 1)


def market_of(instance: Any) -> str:
    """Return the market of the instance: `on-demand` or `spot`."""
    return SPOT if instance.lifecycle == "spot" else ON_DEMAND


def capacity(group: Any, market: str | None = None) -> int:
    """Return the capacity of *group*, unanswered launches included; of one *market*, if given."""
    listed = sum(
        weight_of(state)
        for state in group.instance_states
        if state.lifecycle_state in COUNTED and market in (None, market_of(state.instance))
    )
    return listed + sum(
        launch.option.weight for launch in unanswered_launches(group) if market in (None, launch.market)
    )


def _launch_missing(group: Any) -> None:
    group.reconcile_at = None
    while (group.desired_capacity or 0) > capacity(group):
        market = ON_DEMAND if on_demand_capacity(group) > capacity(group, ON_DEMAND) else SPOT
        if not _request_instance(group, market):
            reconcile_soon(group)
            return


def _request_instance(group: Any, market: str) -> Launch | None:
    """Launch the first candidate that EC2 does not refuse, recording each refusal; None if all are refused."""
    launched = len(group.instance_states) + len(unanswered_launches(group))
    cause = (
        f"At {scaling_activities.now()} an instance was started in response to a difference between desired and actual "
        "capacity."
    )
    for option, subnet, zone in candidates(group, market, launched=launched):
        kind = {"market": market, "instance_type": option.instance_type, "zone": zone}
        refusal = next((refusal for refusal in ACTIVE_FAULTS.faults.refused if refusal.matches(**kind)), None)
        if refusal is None:
            activity = scaling_activities.note(
                group, description="Launching a new EC2 instance", cause=cause, status=WAITING_FOR_INSTANCE[market]
            )
            launch = Launch(
                option=option, market=market, subnet=subnet, zone=zone, requested_at=time.monotonic(), activity=activity
            )
            unanswered_launches(group).append(launch)
            if not ACTIVE_FAULTS.faults.launch_answer_seconds:
                _receive_instance(group, launch)
            return launch
        why = refusal_message(why=refusal.why, **kind)
        description = f"Launching a new EC2 instance.  Status Reason: {why}"
        scaling_activities.note(group, description=description, cause=cause, status=FAILED, why=why)
    return None


def _receive_instance(group: Any, launch: Launch) -> None:
    """Add the launched instance to *group*; one that is no longer wanted is terminated again."""
    from moto.autoscaling.models import ASG_NAME_TAG, InstanceState

    option = launch.option
    version = group.ec2_backend._get_template_from_args(option.template)
    where = {"subnet_id": launch.subnet} if launch.subnet else {"placement": launch.zone}
    purchase = {"instance_market_options": {"MarketType": "spot"}} if launch.market == SPOT else {}
    reservation = group.ec2_backend.run_instances(
        version.image_id,
        1,
        version.user_data,
        [],
        instance_type=option.instance_type,
        is_instance_type_default=False,
        launch_template=option.template,
        tags={"instance": {**group.get_propagated_tags(), ASG_NAME_TAG: group.name}},
        region_name=group.region,
        **where,
        **purchase,
    )
    instance = reservation.instances[0]
    instance.autoscaling_group = group
    state = InstanceState(instance, protected_from_scale_in=group.new_instances_protected_from_scale_in)
    state.weighted_capacity = str(option.weight) if group.mixed_instances_policy else None
    state.image_id = version.image_id
    state.zone = launch.zone
    state.launching = launch.activity
    state.lifecycle_state, state.since = PENDING, time.monotonic()
    instance._state.name, instance._state.code = "pending", 0
    unanswered_launches(group).remove(launch)
    group.instance_states.append(state)
    launch.activity.description = f"Launching a new EC2 instance: {instance.id}"
    launch.activity.status_code, launch.activity.progress = PRE_IN_SERVICE, 30
    if not ACTIVE_FAULTS.faults.launch_delay_seconds:
        _enter_service(state)
    if not getattr(group, "replacing", False) and capacity(group) - weight_of(state) >= (group.desired_capacity or 0):
        request_scale_in(group)
        reconcile(group)


def _enter_service(state: Any) -> None:
    state.lifecycle_state = IN_SERVICE
    state.instance._state.name, state.instance._state.code = "running", 16
    _finish_launch(state)


def _terminate_surplus(group: Any) -> None:
    """Terminate unprotected surplus instances, Spot first and newest first, if a scale-in was requested."""
    if not getattr(group, "scale_in_requested", False):
        return
    group.scale_in_requested = False
    surplus = capacity(group) - (group.desired_capacity or 0)
    to_terminate: list[Any] = []
    counted = [state for state in reversed(group.instance_states) if state.lifecycle_state in COUNTED]
    for state in sorted(counted, key=lambda state: market_of(state.instance) != SPOT):
        if weight_of(state) <= surplus and not state.protected_from_scale_in:
            to_terminate.append(state)
            surplus -= weight_of(state)
    cause = (
        f"At {scaling_activities.now()} an instance was taken out of service in response to a difference between "
        "desired and actual capacity, shrinking the capacity."
    )
    begin_terminations(group, to_terminate, cause=cause)
    if any(weight_of(state) <= surplus for state in counted if state not in to_terminate):
        why = "Could not scale to desired capacity because all remaining instances are protected from scale in."
        scaling_activities.note(
            group,
            description=why,
            cause=f"At {scaling_activities.now()} group reached equilibrium.",
            status=CANCELLED,
            why=why,
        )


def _replace_next(group: Any, *, now: float) -> None:
    """Take the next step of a replacement: launch in the market that lacks capacity, or terminate in the other."""
    group.replace_at = now + PAUSE_SECONDS
    if unanswered_launches(group) or any(state.lifecycle_state == PENDING for state in group.instance_states):
        return
    wanted = on_demand_capacity(group)
    surplus = {
        ON_DEMAND: capacity(group, ON_DEMAND) - wanted,
        SPOT: capacity(group, SPOT) - ((group.desired_capacity or 0) - wanted),
    }
    for excess, lacking in ((ON_DEMAND, SPOT), (SPOT, ON_DEMAND)):
        misfits = [
            state
            for state in group.instance_states
            if state.lifecycle_state == IN_SERVICE
            and market_of(state.instance) == excess
            and weight_of(state) <= surplus[excess]
            and not state.protected_from_scale_in
        ]
        if not misfits:
            continue
        if surplus[lacking] < 0 and "Launch" not in group._suspended_processes:
            _request_instance(group, lacking)
            return
        if surplus[lacking] >= 0 and "Terminate" not in group._suspended_processes:
            cause = (
                f"At {scaling_activities.now()} an instance was taken out of service in response to a change of the "
                "group's instances distribution."
            )
            begin_terminations(group, misfits[:1], cause=cause)
            return
    group.replacing = False


def _finish_launch(state: Any, *status: str) -> None:
    # moto itself launches the instances of groups without a launch template, and records no activity.
    if hasattr(state, "launching"):
        state.launching.finish(*status)


def _note_termination(group: Any, state: Any, cause: str) -> ScalingActivity:
    return scaling_activities.note(group, description=f"Terminating EC2 instance: {state.instance.id}", cause=cause)
