"""What a run would cost, before it is started."""

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
    "The fleet decides the mix of types and markets when the run starts, by what EC2 has: the bill lies between these. "
    "Starting and ending the nodes takes some minutes more; storage and traffic are not included."
)


@dataclass(frozen=True, kw_only=True)
class UsdRange:
    """From the cheapest to the dearest zone, in USD."""

    least: float
    most: float

    def times(self, factor: float) -> UsdRange:
        """Multiply both ends."""
        return UsdRange(least=self.least * factor, most=self.most * factor)


@dataclass(frozen=True, kw_only=True)
class TypeEstimate:
    """
    A ring that is made of one instance type.

    Args:
        instance_type: Such as `g5.xlarge`.
        nodes: How many it takes.
        gpus: How many GPUs these have, which may be more than were asked for.
        on_demand_usd_per_hour: Of all nodes; None when the price is not known.
        on_demand_usd: The same for the whole time.
        spot_usd_per_hour: Of all nodes, over the zones; None when no price is known.
        spot_usd: The same for the whole time.
        saved_usd: What Spot saves; None unless both prices are known.
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
    A fleet that the run fits.

    Args:
        fleet: Name of the fleet.
        types: What the ring would cost of each of its types, the cheapest first.
    """

    fleet: str
    types: tuple[TypeEstimate, ...]


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """
    What a run would cost.

    Args:
        gpus: GPUs of its ring.
        hours: How long its nodes would run.
        region: Whose prices these are.
        fleets: The fleets that it fits.
        prices_from: Epoch seconds at which AWS told the oldest of the prices.
        remarks: What is not known, and what to mind: sentences for people.
    """

    gpus: int
    hours: float
    region: str
    fleets: tuple[FleetEstimate, ...]
    prices_from: float
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON objects; amounts in USD with four digits."""
        rounded: dict[str, Any] = _rounded(asdict(self))
        return rounded


def fitting_fleets(connection: Connection, *, gpus: int) -> tuple[Fleet, ...]:
    """
    List the fleets that a run of *gpus* GPUs may get.

    Args:
        connection: The training.
        gpus: GPUs of the ring.

    Raises:
        InvalidInput: If there is none.
    """
    fleets = tuple(fleet for fleet in connection.fleets if gpus > 0 and fleet.fits(gpus))
    if not fleets:
        raise InvalidInput(f"'gpus' {contract.gpus_rule(connection.fleets)}, got {gpus}")
    return fleets


def estimate(connection: Connection, *, gpus: int, hours: float, prices: Prices) -> CostEstimate:
    """
    Estimate what a run costs on each fleet that it fits, if its nodes run for *hours*.

    Args:
        connection: The training.
        gpus: GPUs of the ring.
        hours: How long its nodes run.
        prices: Of the fleets' types, as far as they are known.

    Raises:
        InvalidInput: If no fleet can hold the ring, or *hours* is not a time.
        PricesUnknown: If not one price is known.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise InvalidInput(f"'hours' must be more than 0, got {hours}")
    fleets = fitting_fleets(connection, gpus=gpus)
    if prices.told_at is None:
        reasons = "; ".join(prices.remarks) or "AWS was asked for none"
        raise PricesUnknown(f"there are no prices to estimate with: {reasons}")
    estimates = tuple(
        FleetEstimate(
            fleet=fleet.id,
            types=_cheapest_first(
                _estimate_type(name, per_node, gpus=gpus, hours=hours, prices=prices)
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


def _estimate_type(name: str, gpus_per_node: int, *, gpus: int, hours: float, prices: Prices) -> TypeEstimate:
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


def _cheapest_first(types: Iterable[TypeEstimate]) -> tuple[TypeEstimate, ...]:
    def cost(each: TypeEstimate) -> float:
        known = [each.on_demand_usd, each.spot_usd.least if each.spot_usd else None]
        return min((usd for usd in known if usd is not None), default=math.inf)

    return tuple(sorted(types, key=cost))


def _limits(connection: Connection, estimates: Iterable[FleetEstimate], *, hours: float) -> list[str]:
    """Say which limits of the training would end the run before its time."""
    remarks = []
    ceiling = connection.max_cost_usd
    dearest = max(
        (usd for each in estimates for kind in each.types for usd in _all_usd(kind)),
        default=0.0,
    )
    if ceiling is not None and dearest > ceiling:
        remarks.append(f"The training's ceiling of {ceiling:.2f} USD may end the run before these {hours:g} hours.")
    if hours * 3600 > connection.max_runtime_seconds:
        longest = connection.max_runtime_seconds / 3600
        remarks.append(f"The training's longest run takes {longest:g} hours, fewer than these {hours:g}.")
    return remarks


def _all_usd(kind: TypeEstimate) -> list[float]:
    spot = [] if kind.spot_usd is None else [kind.spot_usd.most]
    return spot if kind.on_demand_usd is None else [*spot, kind.on_demand_usd]


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {name: _rounded(item) for name, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
