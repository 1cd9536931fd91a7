"""What an hour of an instance costs, by type, market and zone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class Price:
    """
    What an hour of an instance costs.

    Args:
        instance_type: Such as `g5.xlarge`.
        market: `on-demand` or `spot`.
        zone: Such as `eu-west-1a`; '' for all of them, as for On-Demand.
        usd: USD an hour.
        at: Epoch seconds at which AWS told it. Default: that was not noted.
    """

    instance_type: str
    market: str
    zone: str
    usd: float
    at: float | None = None


def price_of(prices: Iterable[Price], *, instance_type: str, market: str, zone: str) -> float | None:
    """
    Find what an instance costs an hour in US dollars; None if nothing is known of its type.

    Args:
        prices: Those that are known.
        instance_type: Its type.
        market: `on-demand` or `spot`; '' while it is not known, which counts as the dearest.
        zone: Its zone. Where no price of the zone is known, the dearest one of the market counts, then On-Demand;
            never Spot for what is On-Demand.
    """
    of_type = [price for price in prices if price.instance_type == instance_type]
    of_market = [price for price in of_type if price.market == market]
    listed = [price for price in of_type if price.market == contract.ON_DEMAND or not market]
    for rows in ([price for price in of_market if price.zone in (zone, "")], of_market, listed):
        if rows:
            return max(price.usd for price in rows)
    return None


@dataclass(frozen=True, kw_only=True)
class Prices:
    """
    The prices that AWS told when it was asked for them.

    Args:
        found: One for each type On-Demand, and for each type and zone as Spot.
        remarks: Which prices are missing or old, and why: sentences for people.
    """

    found: tuple[Price, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def told_at(self) -> float | None:
        """Epoch seconds at which the oldest of them was told; None if there is none."""
        return min((price.at for price in self.found if price.at is not None), default=None)

    def on_demand(self, instance_type: str) -> Price | None:
        """Return the type's On-Demand price; None when it is not known."""
        return next(iter(self._of(instance_type, contract.ON_DEMAND)), None)

    def spot(self, instance_type: str) -> tuple[Price, ...]:
        """Return the type's Spot prices, one for each zone, the lowest first; empty when none is known."""
        return tuple(sorted(self._of(instance_type, contract.SPOT), key=lambda price: price.usd))

    def _of(self, instance_type: str, market: str) -> Iterable[Price]:
        return (price for price in self.found if (price.instance_type, price.market) == (instance_type, market))
