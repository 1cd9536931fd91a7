"""Capacity plans: what a user may write, and what a fleet makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aws_cdk import Duration

from cdk_horovod import CapacityAttempt, CapacityPlan
from cdk_horovod.fleet.capacity_attempt import GpuCapacity
from cdk_horovod.fleet.capacity_plan import FleetPlace, Zone, plan_attempts

CAPACITY = GpuCapacity.of(["g5.12xlarge", "g5.4xlarge"], max_gpus=16, on_demand_base_gpus=1)
ZONES = tuple(Zone(name=f"zone-{letter}", key=letter, subnets=(f"subnet-{letter}",)) for letter in "abc")
PLACE = FleetPlace(capacity=CAPACITY, spot=True, subnets=("subnet-a", "subnet-b", "subnet-c"), zones=ZONES)
ONE_ZONE = replace(PLACE, subnets=("subnet-a",), zones=ZONES[:1])
UNKNOWN_ZONES = replace(PLACE, zones=())
CLUSTER = replace(PLACE, single_zone="a cluster placement group is in one")


def told(plan: CapacityPlan, place: FleetPlace = PLACE) -> list[tuple[str, int | None, bool]]:
    """List what is tried, its seconds, and whether it begins with an empty fleet."""
    return [
        (
            attempt.words,
            None if attempt.time_limit is None else int(attempt.time_limit.to_seconds()),
            attempt.empties,
        )
        for attempt in plan_attempts(plan, place)
    ]


def test_spot_first_ends_on_demand() -> None:
    """The plan tries Spot in all zones, then zone by zone, then On-Demand, each from an empty fleet."""
    assert told(CapacityPlan.spot_first()) == [
        ("Spot in any zone", 600, False),
        ("Spot in zone-a", 300, True),
        ("Spot in zone-b", 300, True),
        ("Spot in zone-c", 300, True),
        ("On-Demand in any zone", None, True),
    ]


def test_subnets_are_those_of_the_zones() -> None:
    """Each attempt may launch in the subnets of its zones."""
    subnets = [attempt.subnets for attempt in plan_attempts(CapacityPlan.spot_first(), PLACE)]
    assert subnets == [PLACE.subnets, ("subnet-a",), ("subnet-b",), ("subnet-c",), PLACE.subnets]


def test_nothing_is_tried_twice() -> None:
    """In a fleet of one zone, any zone and each zone are one attempt."""
    assert told(CapacityPlan.spot_first(), ONE_ZONE) == [
        ("Spot in zone-a", 600, False),
        ("On-Demand in zone-a", None, True),
    ]


def test_unknown_zones_are_not_tried_one_by_one() -> None:
    """Subnets whose zones CDK does not know are tried together."""
    assert told(CapacityPlan.spot_first(), UNKNOWN_ZONES) == [
        ("Spot in any zone", 600, False),
        ("On-Demand in any zone", None, True),
    ]


def test_one_zone_at_a_time() -> None:
    """A cluster placement group is in one zone: each is tried with Spot, then each with On-Demand."""
    assert [words for words, _, _ in told(CapacityPlan.one_zone(spot=True), CLUSTER)] == [
        *(f"Spot in zone-{letter}" for letter in "abc"),
        *(f"On-Demand in zone-{letter}" for letter in "abc"),
    ]
    assert told(CapacityPlan.one_zone(spot=False), replace(CLUSTER, zones=ZONES[:1])) == [
        ("On-Demand in zone-a", 900, False)
    ]


def test_plans_of_ones_own() -> None:
    """A user's plan keeps its zones, types and time limits, and its attempts begin with an empty fleet."""
    plan = CapacityPlan.attempts(
        [
            CapacityAttempt(market="spot", instance_types=["g5.4xlarge"], time_limit=Duration.minutes(1)),
            CapacityAttempt(market="spot", zones=["zone-c", "zone-a"]),
            CapacityAttempt(market="on-demand", zones=["zone-c", "zone-a"], zone_by_zone=True),
            CapacityAttempt(market="on-demand"),
        ]
    )
    assert told(plan) == [
        ("Spot in any zone (g5.4xlarge)", 60, True),
        ("Spot in zone-c, zone-a", None, True),
        ("On-Demand in zone-c", None, True),
        ("On-Demand in zone-a", None, True),
        ("On-Demand in any zone", None, True),
    ]


@pytest.mark.parametrize(
    ("attempt", "place", "message"),
    [
        ({"market": "spot"}, replace(PLACE, spot=False), "must be of On-Demand attempts with 'spot' off, got an att"),
        (
            {"zones": ["zone-d"]},
            PLACE,
            "'zones' of an attempt must be among the fleet's, zone-a, zone-b, zone-c, got",
        ),
        ({"zones": ["zone-a"]}, UNKNOWN_ZONES, "'zones' .*, none that are known at synthesis, got zone-a"),
        ({"instance_types": ["g6.xlarge"]}, PLACE, "'instance_types' .*, g5.12xlarge, g5.4xlarge, got g6.xlarge"),
        ({"instance_types": ["g5.12xlarge"]}, PLACE, "must have one of 1 GPUs, .*, got g5.12xlarge"),
        (
            {},
            CLUSTER,
            "must try one zone at a time, because a cluster placement group is in one, got an attempt",
        ),
        ({"zones": ["zone-a", "zone-b"]}, CLUSTER, "must try one zone at a time, because .*, got one in 2 zones"),
        ({"zone_by_zone": True}, UNKNOWN_ZONES, "'capacity_plan' must have an attempt that needs no zone's name"),
    ],
)
def test_fails_when_the_fleet_cannot_make_the_attempt(attempt: dict[str, Any], place: FleetPlace, message: str) -> None:
    """An attempt cannot ask for a zone or a type that the fleet does not have."""
    plan = CapacityPlan.attempts([CapacityAttempt(**{"market": "on-demand", **attempt})])
    with pytest.raises(ValueError, match=message):
        plan_attempts(plan, place)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"market": "reserved"}, "'market' must be one of on-demand, spot, got reserved"),
        ({"market": "spot", "zones": []}, "'zones' must be a list of at least one, got"),
        ({"market": "spot", "zones": "zone-a"}, "'zones' must be a list of at least one, got 'zone-a'"),
        ({"market": "spot", "instance_types": []}, "'instance_types' must be a list of at least one, got"),
        (
            {"market": "spot", "time_limit": Duration.seconds(1)},
            "'time_limit' must be whole seconds and at least 2",
        ),
        (
            {"market": "spot", "time_limit": Duration.millis(2500)},
            "'time_limit' must be whole seconds and at least 2",
        ),
    ],
)
def test_fails_when_no_fleet_could_make_the_attempt(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument and the value."""
    with pytest.raises(ValueError, match=message):
        CapacityAttempt(**arguments)


def test_fails_without_attempts_and_with_too_many() -> None:
    """A plan has at least one attempt, and no more than fit into an execution's history."""
    with pytest.raises(ValueError, match="'attempts' must be at least one, got none"):
        CapacityPlan.attempts([])
    zones = tuple(Zone(name=f"zone-{n}", key=str(n), subnets=(f"subnet-{n}",)) for n in range(21))
    plan = CapacityPlan.attempts([CapacityAttempt(market="spot", zone_by_zone=True)])
    with pytest.raises(ValueError, match="'capacity_plan' must be at most 20 attempts, each zone counted, got 21"):
        plan_attempts(plan, replace(PLACE, zones=zones))
