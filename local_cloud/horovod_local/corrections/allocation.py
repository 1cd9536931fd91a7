"""
Which instances a mixed-instances group wants: how much On-Demand, which types in which order, in which zones.

The rules are those of the Auto Scaling User Guide, "Allocation strategies for multiple instance types" and "Configure
an Auto Scaling group to use instance weights". A strategy orders the types, and what is missing does not: with weights
"the price per unit hour" decides for `lowest-price`, and the first type for `prioritized`, so that a group of which one
unit is missing may get an instance of four. "We launch the instances until the capacity is fulfilled, even if this
results in an overage": it is less than one instance.
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
"""Strategies without an order of the group's own; every pool has the same capacity here, so that the price decides."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One kind of instance that a group may launch, and the capacity that it counts for."""

    instance_type: str
    weight: int
    template: dict[str, Any]

    def usd_per_unit(self, market: str, zone: str) -> float:
        """Return the price of a unit of capacity for an hour; a type without a price comes last."""
        usd = ON_DEMAND_USD.get(self.instance_type) if market == ON_DEMAND else spot_usd(self.instance_type, zone=zone)
        return math.inf if usd is None else usd / self.weight


def distribution(group: Any) -> dict[str, Any]:
    """Return the InstancesDistribution of *group*."""
    return (group.mixed_instances_policy or {}).get("InstancesDistribution") or {}


def market_shares(group: Any) -> tuple[int, int]:
    """Return the base, and the percentage beyond it, that must be On-Demand."""
    found = distribution(group)
    return int(found.get("OnDemandBaseCapacity") or 0), int(found.get("OnDemandPercentageAboveBaseCapacity", 100))


def on_demand_share(group: Any) -> int:
    """Return how much of the desired capacity must be On-Demand: the base, and a percentage of the rest."""
    desired = int(group.desired_capacity or 0)
    if not group.mixed_instances_policy:
        return desired
    base, percentage = market_shares(group)
    return min(desired, base + math.ceil(max(desired - base, 0) * percentage / 100))


def offers(group: Any) -> list[Offer]:
    """Return the kinds of instances that *group* may launch, in its own order."""
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


def candidates(group: Any, market: str, *, launched: int) -> Iterator[tuple[Offer, str | None, str]]:
    """
    Order what *group* may launch next: in one zone after the other, there by the strategy of the market.

    Args:
        group: The group.
        market: On-Demand or Spot.
        launched: How many instances it has: every launch starts at the next zone, so that zones fill evenly.
    """
    subnets = [subnet for subnet in (group.vpc_zone_identifier or "").split(",") if subnet]
    places: Sequence[tuple[str | None, str]] = (
        [(subnet, group.ec2_backend.get_subnet(subnet).availability_zone) for subnet in subnets]
        if subnets
        else [(None, zone) for zone in group.availability_zones]
    )
    strategy = distribution(group).get(
        "OnDemandAllocationStrategy" if market == ON_DEMAND else "SpotAllocationStrategy",
        # "The default value for Auto Scaling groups that don't specify InstanceRequirements", and that of Spot.
        "prioritized" if market == ON_DEMAND else "lowest-price",
    )
    every = offers(group)
    turn = launched % len(places)
    # A type that is refused in one zone is looked for in the others before the next type's turn comes.
    ranked = (
        sorted(every, key=lambda offer: offer.usd_per_unit(market, places[0][1])) if strategy in BY_PRICE else every
    )
    for offer, (subnet, zone) in itertools.product(ranked, [*places[turn:], *places[:turn]]):
        yield offer, subnet, zone


def refusal_message(*, why: str, market: str, instance_type: str, zone: str) -> str:
    """Say in EC2's words *why* it refuses a launch ("Troubleshoot EC2 Auto Scaling: EC2 instance launch failures")."""
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
