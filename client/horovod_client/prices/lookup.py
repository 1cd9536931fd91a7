"""Look-up of prices: On-Demand from the Price List API, Spot from EC2."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.prices.cache import CachedPrices, PriceCache
from horovod_client.prices.fleet_prices import Price, Prices
from horovod_client.text.amounts import moment
from horovod_client.text.markets import MARKET_NAMES
from horovod_node import contract

if TYPE_CHECKING:
    from horovod_client.aws.clients import AwsClients

MAX_AGE_SECONDS: Final[Mapping[str, int]] = {contract.ON_DEMAND: 7 * 86_400, contract.SPOT: 3_600}
"""How long a cached price is used: On-Demand prices change a few times a year, Spot prices several times a day."""


class PriceLookup:
    """
    Looks prices up in the Price List API and EC2's Spot price history, and caches them.

    Args:
        region: Region of the instances.
        clients: Clients of that Region.
        cache: Cache of prices. Default: the user's cache folder.
        now: Returns the time in epoch seconds. Default: the system's clock.
    """

    def __init__(
        self,
        *,
        region: str,
        clients: AwsClients,
        cache: PriceCache | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._region = region
        self._clients = clients
        self._cache = cache or PriceCache()
        self._now = now

    def prices_of(self, instance_types: Iterable[str]) -> Prices:
        """
        Find the prices of all *instance_types*. A price that AWS does not return is missing, and a remark says why.

        Args:
            instance_types: Instance types, such as `g5.xlarge`.
        """
        types = [*dict.fromkeys(instance_types)]
        on_demand, spot = self.on_demand_prices_of(types), self._spot_prices_of(types)
        return Prices(found=(*on_demand.found, *spot.found), remarks=(*on_demand.remarks, *spot.remarks))

    def on_demand_prices_of(self, instance_types: Iterable[str]) -> Prices:
        """
        Find the On-Demand prices of all *instance_types*, as `prices_of` does.

        Args:
            instance_types: Instance types, such as `g5.xlarge`.
        """
        return self._look_up(
            [*dict.fromkeys(instance_types)],
            market=contract.ON_DEMAND,
            action="pricing:GetProducts",
            endpoint=self._clients.pricing.meta.endpoint_url,
            ask=self._ask_price_list,
        )

    def _spot_prices_of(self, types: Sequence[str]) -> Prices:
        return self._look_up(
            types,
            market=contract.SPOT,
            action="ec2:DescribeSpotPriceHistory",
            endpoint=self._clients.ec2.meta.endpoint_url,
            ask=self._ask_spot_history,
        )

    def _look_up(
        self,
        types: Sequence[str],
        *,
        market: str,
        action: str,
        endpoint: str,
        ask: Callable[[Sequence[str]], Mapping[str, Mapping[str, float]]],
    ) -> Prices:
        # The endpoint is part of the key, because the local cloud's prices are made up.
        place = (urlsplit(endpoint).netloc, self._region, market)
        cached = {name: prices for name in types if (prices := self._cache.read(*place, name)) is not None}
        old = [name for name in types if not self._is_fresh(cached.get(name), market)]
        remarks: list[str] = []
        if old:
            try:
                told = ask(old)
            except AwsError as error:
                remarks = _remarks(old, market, why_refused(error, action=action), cached)
            else:
                for name in old:
                    cached.pop(name, None)
                    if told.get(name):
                        cached[name] = CachedPrices(at=self._now(), usd=told[name])
                        self._cache.write(*place, name, prices=cached[name])
                unlisted = [name for name in old if name not in cached]
                remarks = _remarks(unlisted, market, f"AWS lists none in {self._region}", cached)
        found = tuple(
            Price(instance_type=name, market=market, zone=zone, usd=usd, at=prices.at)
            for name, prices in cached.items()
            for zone, usd in prices.usd.items()
        )
        return Prices(found=found, remarks=tuple(remarks))

    def _is_fresh(self, cached: CachedPrices | None, market: str) -> bool:
        return cached is not None and 0 <= self._now() - cached.at <= MAX_AGE_SECONDS[market]

    def _ask_price_list(self, types: Sequence[str]) -> dict[str, dict[str, float]]:
        told = {}
        for name in types:
            of = contract.SAGEMAKER_PRICES if name.startswith(contract.SAGEMAKER_PREFIX) else contract.EC2_PRICES
            wanted = {of.type_field: name, "regionCode": self._region, **of.fields}
            answer = self._clients.pricing.get_products(
                ServiceCode=of.service,
                Filters=[{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
                MaxResults=1,
            )
            usd = [price for product in answer["PriceList"] for price in _usd_of(json.loads(product))]
            if usd:
                told[name] = {"": max(usd)}
        return told

    def _ask_spot_history(self, types: Sequence[str]) -> dict[str, dict[str, float]]:
        # What SageMaker's Spot costs is known only from the bill, and EC2 refuses its types.
        types = [name for name in types if not name.startswith(contract.SAGEMAKER_PREFIX)]
        if not types:
            return {}
        pages = self._clients.ec2.get_paginator("describe_spot_price_history").paginate(
            InstanceTypes=[*types],  # type: ignore[list-item]  # the connection names types that the stubs may not know
            ProductDescriptions=["Linux/UNIX"],
            # A start time of now returns only the price in force, one for each type and zone.
            StartTime=datetime.fromtimestamp(self._now(), UTC),
        )
        told: dict[str, dict[str, float]] = {}
        entries = [entry for page in pages for entry in page["SpotPriceHistory"]]
        for entry in sorted(entries, key=lambda entry: entry["Timestamp"]):
            told.setdefault(entry["InstanceType"], {})[entry["AvailabilityZone"]] = float(entry["SpotPrice"])
        return told


def _usd_of(product: Mapping[str, Any]) -> list[float]:
    prices = [
        float(dimension["pricePerUnit"].get("USD", 0))
        for term in product.get("terms", {}).get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
    ]
    return [price for price in prices if price > 0]


def _remarks(types: Iterable[str], market: str, reason: str, cached: Mapping[str, CachedPrices]) -> list[str]:
    """List the prices that are missing or old, and why: one sentence for all types with the same state."""
    names_by_date: dict[str | None, list[str]] = {}
    for name in types:
        date = moment(cached[name].at) if name in cached else None
        names_by_date.setdefault(date, []).append(name)
    remarks = []
    for date, names in names_by_date.items():
        what = f"the {MARKET_NAMES[market]} price{' is' if len(names) == 1 else 's are'}"
        known = "not known" if date is None else f"of {date}"
        remarks.append(f"{what} {known} for {', '.join(names)}: {reason}")
    return remarks
