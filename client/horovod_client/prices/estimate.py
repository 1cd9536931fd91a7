"""Cost estimates of runs before they start."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.connection import Connection, Fleet
from horovod_client.errors import InvalidInput, PricesUnknown
from horovod_node import contract

if TYPE_CHECKING:
    from horovod_client.prices.fleet_prices import Prices

NOTE: Final = (
    "EC2's capacity decides the mix of types and markets when the run starts: the bill lies between these amounts. "
    "Starting and terminating the nodes takes some more minutes; storage and traffic are not included."
)


@dataclass(frozen=True, kw_only=True)
class UsdRange:
    """Range from the cheapest to the most expensive zone, in USD."""

    least: float
    most: float

    def times(self, factor: float) -> UsdRange:
        """Multiply both ends by *factor*."""
        return UsdRange(least=self.least * factor, most=self.most * factor)


@dataclass(frozen=True, kw_only=True)
class TypeEstimate:
    """
    Cost of a ring of one instance type.

    Args:
        instance_type: Instance type, such as `g5.xlarge`.
        nodes: Number of nodes.
        gpus: GPUs of these nodes, which may be more than requested.
        on_demand_usd_per_hour: On-Demand cost of all nodes for an hour; None if the price is not known.
        on_demand_usd: On-Demand cost for the whole time.
        spot_usd_per_hour: Spot cost of all nodes for an hour; None if no price is known.
        spot_usd: Spot cost for the whole time.
        saved_usd: Saving by Spot for the whole time; None unless both prices are known.
    """

    instance_type: str
    nodes: int
    gpus: int
    on_demand_usd_per_hour: float | None = None
    on_demand_usd: float | None = None
    spot_usd_per_hour: UsdRange | None = None
    spot_usd: UsdRange | None = None
    saved_usd: UsdRange | None = None


@dataclass(frozen=True, kw_only=True)
class FleetEstimate:
    """
    Cost of a run on one fleet.

    Args:
        fleet: Name of the fleet.
        types: Cost of a ring of each instance type, the cheapest first.
    """

    fleet: str
    types: tuple[TypeEstimate, ...]


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """
    Cost of a run.

    Args:
        gpus: GPUs of its ring.
        hours: Hours that its nodes run.
        region: Region of the prices.
        fleets: Cost on each fleet that fits the run.
        prices_from: Time of the oldest price, in epoch seconds.
        remarks: Missing prices, limits and other notes: sentences for people.
    """

    gpus: int
    hours: float
    region: str
    fleets: tuple[FleetEstimate, ...]
    prices_from: float
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON objects; amounts in USD with four digits."""
        document: dict[str, Any] = rounded(asdict(self))
        return document


def fitting_fleets(connection: Connection, *, gpus: int) -> tuple[Fleet, ...]:
    """
    List the fleets that fit a run of *gpus* GPUs.

    Args:
        connection: Connection to the training.
        gpus: GPUs of the ring.

    Raises:
        InvalidInput: If no fleet fits.
    """
    fleets = tuple(fleet for fleet in connection.fleets if gpus > 0 and fleet.fits(gpus))
    if not fleets:
        raise InvalidInput(f"'gpus' {contract.gpus_rule(connection.fleets)}, got {gpus}")
    return fleets


def estimate(connection: Connection, *, gpus: int, hours: float, prices: Prices) -> CostEstimate:
    """
    Estimate the cost of a run on each fleet that fits it.

    Args:
        connection: Connection to the training.
        gpus: GPUs of the ring.
        hours: Hours that its nodes run.
        prices: Known prices of the fleets' types.

    Raises:
        InvalidInput: If no fleet can hold the ring, or *hours* is not more than 0.
        PricesUnknown: If no price is known.
    """
    check_hours(hours)
    fleets = fitting_fleets(connection, gpus=gpus)
    if prices.told_at is None:
        reasons = "; ".join(prices.remarks) or "none was looked up"
        raise PricesUnknown(f"there are no prices for an estimate: {reasons}")
    estimates = tuple(
        FleetEstimate(
            fleet=fleet.id,
            types=_cheapest_first(
                estimate_type(name, per_node, gpus=gpus, hours=hours, prices=prices)
                for name, per_node in fleet.types.items()
            ),
        )
        for fleet in fleets
    )
    return CostEstimate(
        gpus=gpus,
        hours=hours,
        region=connection.region,
        fleets=estimates,
        prices_from=prices.told_at,
        remarks=(*prices.remarks, *_limits(connection, estimates, hours=hours), NOTE),
    )


def check_hours(hours: float) -> None:
    """
    Check for how long nodes run.

    Args:
        hours: Hours that they run.

    Raises:
        InvalidInput: If *hours* is not more than 0.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise InvalidInput(f"'hours' must be more than 0, got {hours}")


def estimate_type(name: str, gpus_per_node: int, *, gpus: int, hours: float, prices: Prices) -> TypeEstimate:
    """
    Estimate the cost of a ring of one instance type.

    Args:
        name: Instance type, such as `g5.xlarge`.
        gpus_per_node: GPUs of the type.
        gpus: GPUs of the ring.
        hours: Hours that its nodes run.
        prices: Known prices.
    """
    nodes = math.ceil(gpus / gpus_per_node)
    price, spot_prices = prices.on_demand(name), prices.spot(name)
    on_demand = None if price is None else price.usd * nodes
    spot = UsdRange(least=spot_prices[0].usd, most=spot_prices[-1].usd).times(nodes) if spot_prices else None
    saved = None
    if on_demand is not None and spot is not None:
        saved = UsdRange(least=on_demand - spot.most, most=on_demand - spot.least).times(hours)
    return TypeEstimate(
        instance_type=name,
        nodes=nodes,
        gpus=nodes * gpus_per_node,
        on_demand_usd_per_hour=on_demand,
        on_demand_usd=None if on_demand is None else on_demand * hours,
        spot_usd_per_hour=spot,
        spot_usd=None if spot is None else spot.times(hours),
        saved_usd=saved,
    )


def rounded(value: Any) -> Any:
    """
    Round every amount to four digits.

    Args:
        value: A JSON document, or a part of one.
    """
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {name: rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [rounded(item) for item in value]
    return value


def _cheapest_first(types: Iterable[TypeEstimate]) -> tuple[TypeEstimate, ...]:
    def cost(each: TypeEstimate) -> float:
        known = [each.on_demand_usd, each.spot_usd.least if each.spot_usd else None]
        return min((usd for usd in known if usd is not None), default=math.inf)

    return tuple(sorted(types, key=cost))


def _limits(connection: Connection, estimates: Iterable[FleetEstimate], *, hours: float) -> list[str]:
    """List the limits of the training that would stop the run earlier."""
    remarks = []
    ceiling = connection.max_cost_usd
    dearest = max(
        (usd for each in estimates for kind in each.types for usd in _all_usd(kind)),
        default=0.0,
    )
    if ceiling is not None and dearest > ceiling:
        remarks.append(f"The training's ceiling of {ceiling:.2f} USD may stop the run before these {hours:g} hours.")
    if hours * 3600 > connection.max_runtime_seconds:
        longest = connection.max_runtime_seconds / 3600
        remarks.append(f"The training limits a run to {longest:g} hours, less than these {hours:g}.")
    return remarks


def _all_usd(kind: TypeEstimate) -> list[float]:
    spot = [] if kind.spot_usd is None else [kind.spot_usd.most]
    return spot if kind.on_demand_usd is None else [*spot, kind.on_demand_usd]
