"""
Capacity plans: the attempts of a run to get nodes, in order, each with a market, zones, types and a time limit.

Users write plans; `plan_attempts` turns a plan into the attempts of a particular fleet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from aws_cdk import Duration

from horovod_node import contract

if TYPE_CHECKING:
    from cdk_horovod.fleet.capacity_attempt import GpuCapacity
    from cdk_horovod.fleet.gpu_types import GpuInstanceType

MAX_ATTEMPTS: Final = 20
"""Most attempts in one plan: each adds events to the execution's history, see `run_timeouts.STARTS`."""

MARKET_WORDS: Final = {contract.SPOT: "Spot", contract.ON_DEMAND: "On-Demand"}


@dataclass(frozen=True, kw_only=True)
class CapacityAttempt:
    """
    One attempt to get nodes.

    The GPUs of the fleet's `on_demand_base_gpus`, where leaders run, come from On-Demand in every attempt. The market
    applies to all other GPUs.

    An attempt without zones and types keeps the nodes of earlier attempts of the same market. Any other attempt begins
    with an empty fleet, because it could not use nodes of another zone or type, and nodes of another market would be
    replaced: for Auto Scaling a changed market share "means a gradual replacement of instances" (AWS CloudFormation's
    reference of `InstancesDistribution`).

    Args:
        market: `spot` or `on-demand`.
        zones: Names of Availability Zones of the fleet's subnets. Default: all zones of the fleet.
        zone_by_zone: Whether each zone is a separate attempt, in order. Default: one attempt in all zones.
        instance_types: Names of instance types of the fleet. Default: all of them.
        time_limit:
            Time in which the attempt must get its GPUs; whole seconds, at least 2. If it does, the run waits for the
            ring as long as the training's `start_timeout`.
            Default: `start_timeout`, within which the ring must form, too.

    Raises:
        ValueError: If no fleet could make such an attempt.
    """

    market: str
    zones: Sequence[str] | None = None
    zone_by_zone: bool = False
    instance_types: Sequence[str] | None = None
    time_limit: Duration | None = None

    def __post_init__(self) -> None:
        if self.market not in contract.MARKETS:
            raise ValueError(f"'market' must be one of {', '.join(contract.MARKETS)}, got {self.market}")
        for name in ("zones", "instance_types"):
            given = getattr(self, name)
            if isinstance(given, str) or (given is not None and not given):
                raise ValueError(f"'{name}' must be a list of at least one, got {given!r}")
        if self.time_limit is not None:
            seconds = self.time_limit.to_seconds(integral=False)
            if seconds < 2 or seconds % 1:
                raise ValueError(
                    f"'time_limit' must be whole seconds and at least 2, got {self.time_limit.to_human_string()}"
                )


@dataclass(frozen=True, kw_only=True)
class CapacityPlan:
    """
    Attempts in the order in which a run makes them. Its class methods make the usual ones.

    Args:
        steps: The attempts, with `zone_by_zone` not yet expanded into one attempt for each zone.
    """

    steps: tuple[CapacityAttempt, ...]

    @classmethod
    def spot_first(
        cls,
        *,
        any_zone: Duration | None = None,
        each_zone: Duration | None = None,
        on_demand: Duration | None = None,
    ) -> CapacityPlan:
        """
        Try Spot in all zones together, then zone by zone, then On-Demand for everything.

        Args:
            any_zone: Time limit of Spot in all zones. Default: 10 minutes.
            each_zone: Time limit of Spot in each zone. Default: 5 minutes.
            on_demand: Time limit of On-Demand. Default: the training's `start_timeout`.
        """
        return cls(
            steps=(
                CapacityAttempt(market=contract.SPOT, time_limit=any_zone or Duration.minutes(10)),
                CapacityAttempt(market=contract.SPOT, zone_by_zone=True, time_limit=each_zone or Duration.minutes(5)),
                CapacityAttempt(market=contract.ON_DEMAND, time_limit=on_demand),
            )
        )

    @classmethod
    def one_zone(
        cls, *, spot: bool, each_zone: Duration | None = None, on_demand: Duration | None = None
    ) -> CapacityPlan:
        """
        Try one zone after the other, as a cluster placement group requires.

        Args:
            spot: Whether Spot is tried first in every zone.
            each_zone: Time limit of Spot in each zone. Default: 10 minutes.
            on_demand: Time limit of On-Demand in each zone. Default: 15 minutes.
        """
        first = CapacityAttempt(market=contract.SPOT, zone_by_zone=True, time_limit=each_zone or Duration.minutes(10))
        last = CapacityAttempt(
            market=contract.ON_DEMAND, zone_by_zone=True, time_limit=on_demand or Duration.minutes(15)
        )
        return cls(steps=(first, last) if spot else (last,))

    @classmethod
    def on_demand(cls, *, time_limit: Duration | None = None) -> CapacityPlan:
        """
        Try On-Demand in all zones.

        Args:
            time_limit: Time limit of the attempt. Default: the training's `start_timeout`.
        """
        return cls(steps=(CapacityAttempt(market=contract.ON_DEMAND, time_limit=time_limit),))

    @classmethod
    def default(cls, *, spot: bool, single_zone: bool) -> CapacityPlan:
        """Return the plan of a fleet without an explicit plan."""
        if single_zone:
            return cls.one_zone(spot=spot)
        return cls.spot_first() if spot else cls.on_demand()

    @classmethod
    def attempts(cls, attempts: Sequence[CapacityAttempt]) -> CapacityPlan:
        """
        Make exactly these attempts, in this order.

        Raises:
            ValueError: If *attempts* is empty.
        """
        if not attempts:
            raise ValueError("'attempts' must be at least one, got none")
        return cls(steps=tuple(attempts))


@dataclass(frozen=True, kw_only=True)
class Zone:
    """
    An Availability Zone of a fleet.

    Args:
        name: Name of the zone, or a CDK token.
        key: Text that identifies the zone even if its name is a token.
        subnets: Ids of the fleet's subnets in the zone.
    """

    name: str
    key: str
    subnets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FleetPlace:
    """
    Where a fleet can launch nodes.

    Args:
        capacity: Types and GPUs of the fleet.
        spot: Whether the fleet may use Spot.
        subnets: Ids of all its subnets.
        zones: Its zones; empty if they are not known at synthesis.
        single_zone: Why all nodes of a run must be in one zone; '' if they need not.
    """

    capacity: GpuCapacity
    spot: bool
    subnets: tuple[str, ...]
    zones: tuple[Zone, ...]
    single_zone: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedAttempt:
    """
    One attempt of a particular fleet.

    Args:
        words: Description for people; may contain CDK tokens.
        market: Market of the GPUs above the fleet's On-Demand base.
        subnets: Ids of the subnets in which nodes may be launched.
        instance_types: Types that may be launched.
        empties: Whether the attempt begins with an empty fleet.
        time_limit: Time limit. Default: the training's `start_timeout`.
    """

    words: str
    market: str
    subnets: tuple[str, ...]
    instance_types: tuple[GpuInstanceType, ...]
    empties: bool
    time_limit: Duration | None = None


def plan_attempts(plan: CapacityPlan, place: FleetPlace) -> tuple[PlannedAttempt, ...]:
    """
    Return the attempts of a fleet.

    Repetitions are left out: in a fleet with one zone, "each zone" repeats "all zones".

    Raises:
        ValueError: If the fleet cannot make one of the attempts; the message names the argument and the value.
    """
    found: dict[tuple[object, ...], PlannedAttempt] = {}
    for step in plan.steps:
        for attempt in _attempts_of(step, place):
            found.setdefault((attempt.market, attempt.subnets, attempt.instance_types), attempt)
    if not found:
        raise ValueError(
            "'capacity_plan' must have an attempt that needs no zone's name, because the zones of the fleet's "
            "subnets are not known at synthesis, got attempts zone by zone only"
        )
    if len(found) > MAX_ATTEMPTS:
        raise ValueError(
            f"'capacity_plan' must be at most {MAX_ATTEMPTS} attempts, each zone counted, got {len(found)}"
        )
    return tuple(_emptied_between_markets(found.values()))


def _emptied_between_markets(attempts: Iterable[PlannedAttempt]) -> Iterator[PlannedAttempt]:
    """Make an attempt begin with an empty fleet if an earlier attempt of another market may have left nodes."""
    before: set[str] = set()
    for attempt in attempts:
        yield replace(attempt, empties=attempt.empties or bool(before - {attempt.market}))
        before.add(attempt.market)


def _attempts_of(step: CapacityAttempt, place: FleetPlace) -> Iterator[PlannedAttempt]:
    if step.market == contract.SPOT and not place.spot:
        raise ValueError("'capacity_plan' must be of On-Demand attempts with 'spot' off, got an attempt of Spot")
    types = _types_of(step, place.capacity)
    zones = _zones_of(step, place)
    all_types = types == place.capacity.instance_types
    which = "" if all_types else f" ({', '.join(row.name for row in types)})"
    base = PlannedAttempt(
        words=f"{MARKET_WORDS[step.market]} in any zone{which}",
        market=step.market,
        subnets=place.subnets,
        instance_types=types,
        empties=not all_types,
        time_limit=step.time_limit,
    )
    if step.zone_by_zone:
        groups: list[tuple[Zone, ...]] = [(zone,) for zone in zones]
    elif step.zones is not None or len(place.zones) == 1:
        groups = [zones]
    else:
        _refuse_several(place, None)
        yield base
        return
    for group in groups:
        _refuse_several(place, len(group))
        subnets = tuple(subnet for zone in group for subnet in zone.subnets)
        names = ", ".join(zone.name for zone in group)
        yield replace(
            base,
            words=f"{MARKET_WORDS[step.market]} in {names}{which}",
            subnets=subnets,
            empties=base.empties or len(group) < len(place.zones),
        )


def _refuse_several(place: FleetPlace, zones: int | None) -> None:
    if place.single_zone and zones != 1:
        shown = "an attempt in any zone" if zones is None else f"one in {zones} zones"
        raise ValueError(f"'capacity_plan' must try one zone at a time, because {place.single_zone}, got {shown}")


def _types_of(step: CapacityAttempt, capacity: GpuCapacity) -> tuple[GpuInstanceType, ...]:
    if step.instance_types is None:
        return capacity.instance_types
    known = {row.name: row for row in capacity.instance_types}
    unknown = [name for name in step.instance_types if name not in known]
    if unknown:
        raise ValueError(
            f"'instance_types' of an attempt must be among the fleet's, {', '.join(known)}, got {', '.join(unknown)}"
        )
    types = tuple(row for row in capacity.instance_types if row.name in step.instance_types)
    smallest = min(row.gpus for row in types)
    if smallest != capacity.gpu_step:
        raise ValueError(
            f"'instance_types' of an attempt must have one of {capacity.gpu_step} GPUs, the fleet's smallest, so that "
            f"it fits every run, got {', '.join(step.instance_types)}"
        )
    return types


def _zones_of(step: CapacityAttempt, place: FleetPlace) -> tuple[Zone, ...]:
    if step.zones is None:
        return place.zones
    known = {zone.key: zone for zone in place.zones} | {zone.name: zone for zone in place.zones}
    unknown = [name for name in step.zones if name not in known]
    if unknown:
        names = ", ".join(zone.name for zone in place.zones) or "none that are known at synthesis"
        raise ValueError(f"'zones' of an attempt must be among the fleet's, {names}, got {', '.join(unknown)}")
    return tuple(dict.fromkeys(known[name] for name in step.zones))
