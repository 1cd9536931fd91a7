"""The history of Spot prices."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from horovod_local.corrections.registry import correction
from horovod_local.shared.price_list import ON_DEMAND_USD, spot_usd

_LINUX: Final = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")


@correction(
    moto="returns one Spot price for every type and zone: 0.00001 USD, of 2006",
    aws="returns the price of each type in each zone; here a fixed share of the On-Demand price",
)
def spot_prices_follow_on_demand_prices() -> None:
    from moto.core.responses import ActionResult
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.ec2.responses.spot_instances import SpotInstances

    def describe_spot_price_history(self: Any) -> Any:
        filters = self._filters_from_querystring()
        systems = self._get_param("ProductDescriptions", []) or filters.get("product-description") or [_LINUX[0]]
        wanted = self._get_param("InstanceTypes", []) or filters.get("instance-type") or list(ON_DEMAND_USD)
        zone_wanted = self._get_param("AvailabilityZone")
        zones_wanted = [zone_wanted] if zone_wanted else filters.get("availability-zone")
        zones = [zone.name for zone in RegionsAndZonesBackend.zones[self.region]]
        history = [
            {
                "InstanceType": kind,
                "ProductDescription": system,
                "SpotPrice": f"{usd:.6f}",
                "AvailabilityZone": zone,
                "Timestamp": datetime.now(UTC),
            }
            for kind in wanted
            for zone in zones
            if zones_wanted is None or zone in zones_wanted
            for system in systems
            if system in _LINUX and (usd := spot_usd(kind, zone=zone)) is not None
        ]
        return ActionResult({"SpotPriceHistory": history})

    SpotInstances.describe_spot_price_history = describe_spot_price_history


CORRECTIONS = (spot_prices_follow_on_demand_prices,)
