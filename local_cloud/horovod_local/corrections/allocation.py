"""
Allocation in a mixed-instances group: the On-Demand share, the order of instance types, and the zones.

The rules are those of the Auto Scaling User Guide, "Allocation strategies for multiple instance types" and "Configure
an Auto Scaling group to use instance weights". Only the strategy orders the types, not the missing capacity: with
weights, "the price per unit hour" decides for `lowest-price`, and the first type for `prioritized`. So a group that
lacks one unit may get an instance of weight 4: "We launch the instances until the capacity is fulfilled, even if this
results in an overage". The overage is always less than one instance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.shared.faults import CAPACITY, QUOTA
from horovod_local.shared.price_list import ON_DEMAND_USD, spot_usd

ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"
BY_PRICE: Final = ("lowest-price", "price-capacity-optimized", "capacity-optimized")
"""Strategies that choose by price here, because all Spot pools of the emulation have the same capacity."""


@dataclass(frozen=True, kw_only=True)
class LaunchOption:
    """An instance type that a group may launch, with its weight and its launch template."""

    instance_type: str
    weight: int
    template: dict[str, Any]

    def usd_per_unit(self, market: str, zone: str) -> float:
        """Return the price of one unit of capacity, in USD an hour; infinity for a type without a price."""
        usd = ON_DEMAND_USD.get(self.instance_type) if market == ON_DEMAND else spot_usd(self.instance_type, zone=zone)
        return math.inf if usd is None else usd / self.weight


def distribution(group: Any) -> dict[str, Any]:
    """Return the InstancesDistribution of *group*."""
    return (group.mixed_instances_policy or {}).get("InstancesDistribution") or {}


def market_shares(group: Any) -> tuple[int, int]:
    """Return the On-Demand base capacity, and the On-Demand percentage above it."""
    found = distribution(group)
    return int(found.get("OnDemandBaseCapacity") or 0), int(found.get("OnDemandPercentageAboveBaseCapacity", 100))


def on_demand_capacity(group: Any) -> int:
    """Return the part of the desired capacity that must be On-Demand: the base and the percentage above it."""
    desired = int(group.desired_capacity or 0)
    if not group.mixed_instances_policy:
        return desired
    base, percentage = market_shares(group)
    return min(desired, base + math.ceil(max(desired - base, 0) * percentage / 100))


def launch_options(group: Any) -> list[LaunchOption]:
    """Return the instance types that *group* may launch, in the order of its overrides."""
    own = {"LaunchTemplateId": group.ec2_launch_template.id, "Version": str(group.launch_template_version)}
    overrides = ((group.mixed_instances_policy or {}).get("LaunchTemplate") or {}).get("Overrides") or []
    if not overrides:
        return [LaunchOption(instance_type=group.instance_type, weight=1, template=own)]
    return [
        LaunchOption(
            instance_type=override.get("InstanceType") or group.instance_type,
            weight=int(override.get("WeightedCapacity") or 1),
            template=dict(override.get("LaunchTemplateSpecification") or own),
        )
        for override in overrides
    ]


def candidates(group: Any, market: str, *, launched: int) -> Iterator[tuple[LaunchOption, str | None, str]]:
    """
    Yield what *group* may launch next, in order: each with its subnet (None in a group without subnets) and its zone.

    Types are ordered by the allocation strategy of the market. Each type is tried in every zone before the next type.

    Args:
        group: The group.
        market: `on-demand` or `spot`.
        launched: Number of instances that the group has. It selects the zone to begin with, so that zones fill evenly.
    """
    subnets = [subnet for subnet in (group.vpc_zone_identifier or "").split(",") if subnet]
    places: Sequence[tuple[str | None, str]] = (
        [(subnet, group.ec2_backend.get_subnet(subnet).availability_zone) for subnet in subnets]
        if subnets
        else [(None, zone) for zone in group.availability_zones]
    )
    strategy = distribution(group).get(
        "OnDemandAllocationStrategy" if market == ON_DEMAND else "SpotAllocationStrategy",
        # `prioritized` is "the default value for Auto Scaling groups that don't specify InstanceRequirements".
        "prioritized" if market == ON_DEMAND else "lowest-price",
    )
    options = launch_options(group)
    turn = launched % len(places)
    ranked = (
        sorted(options, key=lambda option: option.usd_per_unit(market, places[0][1]))
        if strategy in BY_PRICE
        else options
    )
    for option, (subnet, zone) in itertools.product(ranked, [*places[turn:], *places[:turn]]):
        yield option, subnet, zone


def refusal_message(*, why: str, market: str, instance_type: str, zone: str) -> str:
    """Return EC2's message for a refused launch ("Troubleshoot EC2 Auto Scaling: EC2 instance launch failures")."""
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
