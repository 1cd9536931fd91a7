"""
How an Auto Scaling group of a mixed-instances policy comes to what it wants: launches, terminations, replacements.

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
    Offer,
    candidates,
    on_demand_share,
    refusal_message,
)
from horovod_local.corrections.scaling_activities import (
    CANCELLED,
    FAILED,
    PRE_IN_SERVICE,
    WAITING_FOR_INSTANCE,
    ScalingActivity,
)
from horovod_local.shared.faults import IN_FORCE

PENDING: Final = "Pending"
IN_SERVICE: Final = "InService"
STANDBY: Final = "Standby"
TERMINATING: Final = "Terminating"
"""Lifecycle state of an instance that still runs, and counts for no capacity any more."""
RETAINED: Final = "Terminating:Retained"
"""
Of one whose termination was given up under an instance lifecycle policy: it runs, counts for no desired capacity, and
stays until TerminateInstanceInAutoScalingGroup.
"""
COUNTED: Final = (PENDING, IN_SERVICE)

PAUSE_SECONDS: Final = 1.0
"""Before a group replaces what it lost, or tries again what was refused; AWS takes a minute or more."""

_lock: Final = threading.RLock()
"""moto takes no locks of its own, and an agent may die while a state machine scales."""


@dataclass(kw_only=True)
class Launch:
    """A launch that EC2 has not answered: it counts for the group's capacity, and the group lists no instance."""

    offer: Offer
    market: str
    subnet: str | None
    zone: str
    asked_at: float
    activity: ScalingActivity


def settle(group: Any) -> None:
    """Launch what *group* lacks and terminate what it has too much of, as far as capacity and suspensions allow."""
    with _lock:
        suspended = group._suspended_processes
        if "Launch" not in suspended:
            _launch_missing(group)
        if "Terminate" not in suspended:
            _terminate_surplus(group)


def scale_in(group: Any) -> None:
    """
    Let the next `settle` terminate what is too much; without it, it terminates nothing.

    A group does so once for each cause: a new desired capacity, or an instance that came too late. What is protected
    then stays: "Could not scale to desired capacity because all remaining instances are protected from scale in". The
    group has found its equilibrium, and neither lifting the protection nor asking for the same capacity is a cause.
    """
    group.is_too_large = True


def settle_soon(group: Any) -> None:
    """Let *group* act after a pause: a group never replaces at once, and an agent that cannot start must not spin."""
    group.settle_at = time.monotonic() + PAUSE_SECONDS


def replace_for_markets(group: Any) -> None:
    """
    Let *group* replace, one after the other, the instances that its new shares of On-Demand and Spot do not fit.

    CloudFormation Template Reference, `InstancesDistribution`, on base and percentage alike: an update "means a gradual
    replacement of instances to adjust the current On-Demand Instances; it launches new instances before terminating the
    previous ones". The leader of a training has no say in it.
    """
    if group.instance_states or launches(group):
        group.replacing, group.replace_at = True, time.monotonic() + PAUSE_SECONDS


def pass_time(group: Any, *, now: float) -> None:
    """Let launches and instances go on whose time has come, and *group* act if its pause is over."""
    with _lock:
        for launch in list(launches(group)):
            if now >= launch.asked_at + IN_FORCE.faults.launch_answer_seconds:
                _arrive(group, launch)
        for state in group.instance_states:
            if state.lifecycle_state == PENDING and now >= state.since + IN_FORCE.faults.launch_delay_seconds:
                _enter_service(state)
        let_go(group, now=now)
        settle_at = getattr(group, "settle_at", None)
        if settle_at is not None and now >= settle_at:
            settle(group)
        if getattr(group, "replacing", False) and now >= group.replace_at:
            _replace_one(group, now=now)


def forget(group: Any, instance_ids: Sequence[str], *, cause: str) -> list[Any]:
    """Take instances that no longer run out of *group*, without filling their places yet."""
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


def part_with(group: Any, states: Sequence[Any], *, cause: str, by_id: bool = False) -> None:
    """
    Terminate instances of *group*, which counts them no more; how long they still run is a fault.

    Args:
        group: The group.
        states: The instances.
        cause: Of their activities.
        by_id: Whether somebody asked for these instances, so that none is retained.
    """
    now = time.monotonic()
    with _lock:
        for state in states:
            _finish_launch(state, CANCELLED)
            state.activity = _note_termination(group, state, cause)
            if IN_FORCE.faults.terminations_retained and not by_id:
                state.lifecycle_state = RETAINED
                state.activity.finish(CANCELLED, why="The lifecycle action was abandoned; the instance is retained.")
                continue
            state.lifecycle_state, state.since = TERMINATING, now
            state.instance._state.name, state.instance._state.code = "shutting-down", 32
        let_go(group, now=now)


def let_go(group: Any, *, now: float) -> None:
    """End the terminating instances of *group* whose time has come."""
    with _lock:
        delay = IN_FORCE.faults.termination_delay_seconds
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


def give_up_launches(group: Any) -> None:
    """Forget the launches of a group that is deleted."""
    with _lock:
        for launch in launches(group):
            launch.activity.finish(CANCELLED)
        launches(group).clear()


def launches(group: Any) -> list[Launch]:
    """Return the launches of *group* that EC2 has not answered."""
    asked: list[Launch] = group.__dict__.setdefault("unanswered_launches", [])
    return asked


def weight_of(state: Any) -> int:
    """Return the capacity that an instance of a group counts for."""
    return int(getattr(state, "weighted_capacity", None) or 1)


def market_of(instance: Any) -> str:
    """Return what the instance was bought on."""
    return SPOT if instance.lifecycle == "spot" else ON_DEMAND


def capacity(group: Any, market: str | None = None) -> int:
    """Add up what *group* has and has asked for, or the part of it that is of one *market*."""
    there = sum(
        weight_of(state)
        for state in group.instance_states
        if state.lifecycle_state in COUNTED and market in (None, market_of(state.instance))
    )
    return there + sum(launch.offer.weight for launch in launches(group) if market in (None, launch.market))


def _launch_missing(group: Any) -> None:
    group.settle_at = None
    while (group.desired_capacity or 0) > capacity(group):
        market = ON_DEMAND if on_demand_share(group) > capacity(group, ON_DEMAND) else SPOT
        if not _ask_for_one(group, market):
            settle_soon(group)
            return


def _ask_for_one(group: Any, market: str) -> Launch | None:
    """Ask EC2 for the first candidate that it has capacity for; note each refusal. None when all are refused."""
    launched = len(group.instance_states) + len(launches(group))
    cause = (
        f"At {scaling_activities.now()} an instance was started in response to a difference between desired and actual "
        "capacity."
    )
    for offer, subnet, zone in candidates(group, market, launched=launched):
        kind = {"market": market, "instance_type": offer.instance_type, "zone": zone}
        refusal = next((refusal for refusal in IN_FORCE.faults.refused if refusal.matches(**kind)), None)
        if refusal is None:
            activity = scaling_activities.note(
                group, description="Launching a new EC2 instance", cause=cause, status=WAITING_FOR_INSTANCE[market]
            )
            launch = Launch(
                offer=offer, market=market, subnet=subnet, zone=zone, asked_at=time.monotonic(), activity=activity
            )
            launches(group).append(launch)
            if not IN_FORCE.faults.launch_answer_seconds:
                _arrive(group, launch)
            return launch
        why = refusal_message(why=refusal.why, **kind)
        description = f"Launching a new EC2 instance.  Status Reason: {why}"
        scaling_activities.note(group, description=description, cause=cause, status=FAILED, why=why)
    return None


def _arrive(group: Any, launch: Launch) -> None:
    """Take EC2's answer: the group has an instance, also one that it does not want any more, which it then ends."""
    from moto.autoscaling.models import ASG_NAME_TAG, InstanceState

    offer = launch.offer
    version = group.ec2_backend._get_template_from_args(offer.template)
    where = {"subnet_id": launch.subnet} if launch.subnet else {"placement": launch.zone}
    purchase = {"instance_market_options": {"MarketType": "spot"}} if launch.market == SPOT else {}
    reservation = group.ec2_backend.run_instances(
        version.image_id,
        1,
        version.user_data,
        [],
        instance_type=offer.instance_type,
        is_instance_type_default=False,
        launch_template=offer.template,
        tags={"instance": {**group.get_propagated_tags(), ASG_NAME_TAG: group.name}},
        region_name=group.region,
        **where,
        **purchase,
    )
    instance = reservation.instances[0]
    instance.autoscaling_group = group
    state = InstanceState(instance, protected_from_scale_in=group.new_instances_protected_from_scale_in)
    state.weighted_capacity = str(offer.weight) if group.mixed_instances_policy else None
    state.image_id = version.image_id
    state.zone = launch.zone
    state.launching = launch.activity
    state.lifecycle_state, state.since = PENDING, time.monotonic()
    instance._state.name, instance._state.code = "pending", 0
    launches(group).remove(launch)
    group.instance_states.append(state)
    launch.activity.description = f"Launching a new EC2 instance: {instance.id}"
    launch.activity.status_code, launch.activity.progress = PRE_IN_SERVICE, 30
    if not IN_FORCE.faults.launch_delay_seconds:
        _enter_service(state)
    if not getattr(group, "replacing", False) and capacity(group) - weight_of(state) >= (group.desired_capacity or 0):
        scale_in(group)
        settle(group)


def _enter_service(state: Any) -> None:
    state.lifecycle_state = IN_SERVICE
    state.instance._state.name, state.instance._state.code = "running", 16
    _finish_launch(state)


def _terminate_surplus(group: Any) -> None:
    """Terminate unprotected instances, Spot and the newest first, as long as the desired capacity stays covered."""
    if not getattr(group, "is_too_large", False):
        return
    group.is_too_large = False
    surplus = capacity(group) - (group.desired_capacity or 0)
    doomed: list[Any] = []
    counted = [state for state in reversed(group.instance_states) if state.lifecycle_state in COUNTED]
    for state in sorted(counted, key=lambda state: market_of(state.instance) != SPOT):
        if weight_of(state) <= surplus and not state.protected_from_scale_in:
            doomed.append(state)
            surplus -= weight_of(state)
    cause = (
        f"At {scaling_activities.now()} an instance was taken out of service in response to a difference between "
        "desired and actual capacity, shrinking the capacity."
    )
    part_with(group, doomed, cause=cause)
    if any(weight_of(state) <= surplus for state in counted if state not in doomed):
        why = "Could not scale to desired capacity because all remaining instances are protected from scale in."
        scaling_activities.note(
            group,
            description=why,
            cause=f"At {scaling_activities.now()} group reached equilibrium.",
            status=CANCELLED,
            why=why,
        )


def _replace_one(group: Any, *, now: float) -> None:
    """Launch what is missing of one market; once it is in service, end as much of the other. Each a while later."""
    group.replace_at = now + PAUSE_SECONDS
    if launches(group) or any(state.lifecycle_state == PENDING for state in group.instance_states):
        return
    wanted = on_demand_share(group)
    surplus = {
        ON_DEMAND: capacity(group, ON_DEMAND) - wanted,
        SPOT: capacity(group, SPOT) - ((group.desired_capacity or 0) - wanted),
    }
    for wrong, right in ((ON_DEMAND, SPOT), (SPOT, ON_DEMAND)):
        misfits = [
            state
            for state in group.instance_states
            if state.lifecycle_state == IN_SERVICE
            and market_of(state.instance) == wrong
            and weight_of(state) <= surplus[wrong]
            and not state.protected_from_scale_in
        ]
        if not misfits:
            continue
        if surplus[right] < 0 and "Launch" not in group._suspended_processes:
            _ask_for_one(group, right)
            return
        if surplus[right] >= 0 and "Terminate" not in group._suspended_processes:
            cause = (
                f"At {scaling_activities.now()} an instance was taken out of service in response to a change of the "
                "group's instances distribution."
            )
            part_with(group, misfits[:1], cause=cause)
            return
    group.replacing = False


def _finish_launch(state: Any, *status: str) -> None:
    # moto launches instances of groups without a template by itself, and notes nothing.
    if hasattr(state, "launching"):
        state.launching.finish(*status)


def _note_termination(group: Any, state: Any, cause: str) -> ScalingActivity:
    return scaling_activities.note(group, description=f"Terminating EC2 instance: {state.instance.id}", cause=cause)
