"""Prices of instances by type, market and zone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class Price:
    """
    Price of an instance.

    Args:
        instance_type: Instance type, such as `g5.xlarge`.
        market: `on-demand` or `spot`.
        zone: Availability Zone, such as `eu-west-1a`; '' for all zones, as for On-Demand.
        usd: USD an hour.
        at: Time of AWS's answer, in epoch seconds. Default: unknown.
    """

    instance_type: str
    market: str
    zone: str
    usd: float
    at: float | None = None


def price_of(prices: Iterable[Price], *, instance_type: str, market: str, zone: str) -> float | None:
    """
    Return the price of an instance in USD an hour; None if no price of its type is known.

    The state machines use the same rule (`cdk_horovod.asl.rates`).

    Args:
        prices: Known prices.
        instance_type: Type of the instance.
        market: `on-demand` or `spot`; '' if unknown: then the highest price of the type counts.
        zone: Zone of the instance. If the price of the zone is unknown, the highest of the market counts, and then the
            On-Demand price; an On-Demand instance never counts at a Spot price.
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
    Result of a price look-up.

    Args:
        found: Prices: On-Demand one for each type, Spot one for each type and zone.
        remarks: Prices that are missing or old, and the reasons: sentences for people.
    """

    found: tuple[Price, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def told_at(self) -> float | None:
        """Time of the oldest price, in epoch seconds; None if there is no price."""
        return min((price.at for price in self.found if price.at is not None), default=None)

    def on_demand(self, instance_type: str) -> Price | None:
        """Return the type's On-Demand price; None if it is not known."""
        return next(iter(self._of(instance_type, contract.ON_DEMAND)), None)

    def spot(self, instance_type: str) -> tuple[Price, ...]:
        """Return the type's Spot prices, one for each zone, the lowest first; empty if none is known."""
        return tuple(sorted(self._of(instance_type, contract.SPOT), key=lambda price: price.usd))

    def _of(self, instance_type: str, market: str) -> Iterable[Price]:
        return (price for price in self.found if (price.instance_type, price.market) == (instance_type, market))
