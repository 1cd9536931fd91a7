"""
How an Auto Scaling group of a mixed-instances policy fills itself: which type, which market, which zone, and what it
writes down about it.

The capacity rules are those of the Auto Scaling User Guide, "Auto Scaling groups with multiple instance types and
purchase options" and "Configure an Auto Scaling group to use instance weights"; the messages of refused launches are
those of "Troubleshoot EC2 Auto Scaling: EC2 instance launch failures".
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from horovod_local.faults import CAPACITY, IN_FORCE, QUOTA

ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
TERMINATING: Final = "Terminating"
"""Lifecycle state of an instance that still runs, and counts for no capacity any more."""

ACTIVITIES_KEPT: Final = 200
"""A group's newest activities; AWS keeps six weeks."""
PAUSE_SECONDS: Final = 1.0
"""Before a group replaces what it lost, or tries again what was refused; AWS takes a minute or more."""

_lock: Final = threading.RLock()
"""moto takes no locks of its own, and an agent may die while a state machine scales."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One kind of instance that a group may launch, and the capacity that it counts for."""

    instance_type: str
    weight: int
    template: dict[str, Any]


@dataclass(kw_only=True)
class ScalingActivity:
    """A scaling activity; its fields are those of the API's Activity."""

    auto_scaling_group_name: str
    description: str
    cause: str
    status_code: str
    status_message: str | None = None
    details: str = "{}"
    progress: int = 100
    activity_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    start_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    end_time: datetime | None = field(default_factory=lambda: datetime.now(UTC))


def settle(group: Any) -> None:
    """Launch what *group* lacks and terminate what it has too much of, as far as capacity and suspensions allow."""
    with _lock:
        suspended = group._suspended_processes
        if "Launch" not in suspended:
            _launch_missing(group)
        if "Terminate" not in suspended:
            _terminate_surplus(group)


def settle_soon(group: Any) -> None:
    """Let *group* act after a pause: a group never replaces at once, and an agent that cannot start must not spin."""
    group.settle_at = time.monotonic() + PAUSE_SECONDS


def pass_time(group: Any, *, now: float) -> None:
    """Let pending and terminating instances go on whose time has come, and *group* act if its pause is over."""
    with _lock:
        for state in group.instance_states:
            if state.lifecycle_state == "Pending" and now >= state.since + IN_FORCE.faults.launch_delay_seconds:
                _enter_service(group, state)
        let_go(group, now=now)
        settle_at = getattr(group, "settle_at", None)
        if settle_at is not None and now >= settle_at:
            settle(group)


def forget(group: Any, instance_ids: Sequence[str], *, cause: str) -> list[Any]:
    """Take instances that no longer run out of *group*, without filling their places yet."""
    with _lock:
        gone = [state for state in group.instance_states if state.instance.id in instance_ids]
        group.instance_states = [state for state in group.instance_states if state not in gone]
        for state in gone:
            if state.lifecycle_state == TERMINATING:
                _finish(state.activity)
            else:
                _note_termination(group, state, cause)
        return gone


def part_with(group: Any, states: Sequence[Any], *, cause: str) -> None:
    """Terminate instances of *group*, which counts them no more; how long they still run is a fault."""
    now = time.monotonic()
    with _lock:
        for state in states:
            state.lifecycle_state, state.since = TERMINATING, now
            state.instance._state.name, state.instance._state.code = "shutting-down", 32
            state.activity = _note_termination(group, state, cause)
            state.activity.status_code, state.activity.progress, state.activity.end_time = "InProgress", 0, None
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
            _finish(state.activity)


def activities(group: Any) -> list[ScalingActivity]:
    """Return what *group* has done, newest first."""
    noted: list[ScalingActivity] = group.__dict__.setdefault("noted_activities", [])
    return noted


def weight_of(state: Any) -> int:
    """Return the capacity that an instance of a group counts for."""
    return int(getattr(state, "weighted_capacity", None) or 1)


def market_of(instance: Any) -> str:
    """Return what the instance was bought on."""
    return SPOT if instance.lifecycle == "spot" else ON_DEMAND


def capacity(states: Sequence[Any], market: str | None = None) -> int:
    """Add up the capacity of *states*, or of those of one *market*."""
    return sum(
        weight_of(state)
        for state in states
        if state.lifecycle_state != TERMINATING and market in (None, market_of(state.instance))
    )


def on_demand_share(group: Any) -> int:
    """Return how much of the desired capacity must be On-Demand: the base, and a percentage of the rest."""
    desired = group.desired_capacity or 0
    policy = group.mixed_instances_policy
    if not policy:
        return int(desired)
    distribution = policy.get("InstancesDistribution") or {}
    base = int(distribution.get("OnDemandBaseCapacity") or 0)
    percentage = int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100))
    return min(desired, base + math.ceil(max(desired - base, 0) * percentage / 100))


def offers(group: Any) -> list[Offer]:
    """Return the kinds of instances that *group* may launch, in its own order of preference."""
    own = {"LaunchTemplateId": group.ec2_launch_template.id, "Version": str(group.launch_template_version)}
    overrides = ((group.mixed_instances_policy or {}).get("LaunchTemplate") or {}).get("Overrides") or []
    if not overrides:
        return [Offer(instance_type=group.instance_type, weight=1, template=own)]
    return [
        Offer(
            instance_type=override.get("InstanceType") or group.instance_type,
            weight=int(override.get("WeightedCapacity") or 1),
            template=dict(override.get("LaunchTemplateSpecification") or own),
        )
        for override in overrides
    ]


def _launch_missing(group: Any) -> None:
    group.settle_at = None
    while (missing := (group.desired_capacity or 0) - capacity(group.instance_states)) > 0:
        missing_on_demand = on_demand_share(group) - capacity(group.instance_states, ON_DEMAND)
        market = ON_DEMAND if missing_on_demand > 0 else SPOT
        # Where Spot fills a part of what is to be On-Demand now, it stays: the capacity is there.
        wanted = min(missing_on_demand, missing) if market == ON_DEMAND else missing
        if not _launch_one(group, market, wanted):
            settle_soon(group)
            return


def _launch_one(group: Any, market: str, missing: int) -> bool:
    """Launch the first offer that EC2 has capacity for; note each refusal. False when all are refused."""
    for offer, subnet, zone in _candidates(group, missing):
        refusal = next(
            (
                refusal
                for refusal in IN_FORCE.faults.refused
                if refusal.matches(instance_type=offer.instance_type, market=market, zone=zone)
            ),
            None,
        )
        if refusal is None:
            _launch(group, offer, market, subnet, zone)
            return True
        _note_refusal(group, offer, market, zone, why=refusal.why)
    return False


def _candidates(group: Any, missing: int) -> Iterator[tuple[Offer, str | None, str]]:
    """
    Order what could fill *missing*: the first offer that fits, else the smallest; each in all zones, in turn.

    Every launch starts at the next zone, so that zones fill evenly; when an offer is refused everywhere, the others
    follow.
    """
    every = offers(group)
    fitting = [offer for offer in every if offer.weight <= missing]
    rest = sorted((offer for offer in every if offer.weight > missing), key=lambda offer: offer.weight)
    subnets = [subnet for subnet in (group.vpc_zone_identifier or "").split(",") if subnet]
    places: list[tuple[str | None, str]] = (
        [(subnet, group.ec2_backend.get_subnet(subnet).availability_zone) for subnet in subnets]
        if subnets
        else [(None, zone) for zone in group.availability_zones]
    )
    turn = len(group.instance_states) % len(places)
    for offer, (subnet, zone) in itertools.product([*fitting, *rest], places[turn:] + places[:turn]):
        yield offer, subnet, zone


def _launch(group: Any, offer: Offer, market: str, subnet: str | None, zone: str) -> None:
    from moto.autoscaling.models import ASG_NAME_TAG, InstanceState

    version = group.ec2_backend._get_template_from_args(offer.template)
    where = {"subnet_id": subnet} if subnet else {"placement": zone}
    purchase = {"instance_market_options": {"MarketType": "spot"}} if market == SPOT else {}
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
    state.zone = zone
    group.instance_states.append(state)
    if IN_FORCE.faults.launch_delay_seconds:
        instance._state.name, instance._state.code = "pending", 0
        state.lifecycle_state, state.since = "Pending", time.monotonic()
    else:
        _enter_service(group, state)


def _enter_service(group: Any, state: Any) -> None:
    state.lifecycle_state = "InService"
    state.instance._state.name, state.instance._state.code = "running", 16
    _note(
        group,
        description=f"Launching a new EC2 instance: {state.instance.id}",
        cause=f"At {_now()} an instance was started in response to a difference between desired and actual capacity.",
        status_code="Successful",
    )


def _terminate_surplus(group: Any) -> None:
    """Terminate unprotected instances, Spot and the newest first, as long as the desired capacity stays covered."""
    surplus = capacity(group.instance_states) - (group.desired_capacity or 0)
    doomed: list[Any] = []
    removable = [
        state
        for state in reversed(group.instance_states)
        if not state.protected_from_scale_in and state.lifecycle_state != TERMINATING
    ]
    for state in sorted(removable, key=lambda state: market_of(state.instance) != SPOT):
        if weight_of(state) <= surplus:
            doomed.append(state)
            surplus -= weight_of(state)
    if not doomed:
        return
    cause = f"At {_now()} an instance was taken out of service in response to a difference between desired and "
    part_with(group, doomed, cause=cause + "actual capacity, shrinking the capacity.")


def refusal_message(*, why: str, market: str, instance_type: str, zone: str) -> str:
    """Say in EC2's words *why* it refuses a launch."""
    words = {
        (CAPACITY, SPOT): "There is no Spot capacity available that matches your request.",
        (CAPACITY, ON_DEMAND): (
            f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested "
            f"({zone}). Our system will be working on provisioning additional capacity."
        ),
        (QUOTA, SPOT): "Max spot instance count exceeded.",
        (QUOTA, ON_DEMAND): (
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket "
            "that the specified instance type belongs to. Please visit http://aws.amazon.com/contact-us/ec2-request "
            "to request an adjustment to this limit."
        ),
    }
    return f"{words.get((why, market), 'Request limit exceeded.')} Launching EC2 instance failed."


def _note_refusal(group: Any, offer: Offer, market: str, zone: str, *, why: str) -> None:
    message = refusal_message(why=why, market=market, instance_type=offer.instance_type, zone=zone)
    _note(
        group,
        description=f"Launching a new EC2 instance.  Status Reason: {message}",
        cause=f"At {_now()} an instance was started in response to a difference between desired and actual capacity.",
        status_code="Failed",
        status_message=message,
    )


def _note_termination(group: Any, state: Any, cause: str) -> ScalingActivity:
    return _note(
        group,
        description=f"Terminating EC2 instance: {state.instance.id}",
        cause=cause,
        status_code="Successful",
    )


def _finish(activity: ScalingActivity) -> None:
    activity.status_code, activity.progress, activity.end_time = "Successful", 100, datetime.now(UTC)


def _note(group: Any, **what: Any) -> ScalingActivity:
    noted = activities(group)
    noted.insert(0, ScalingActivity(auto_scaling_group_name=group.name, **what))
    del noted[ACTIVITIES_KEPT:]
    return noted[0]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
