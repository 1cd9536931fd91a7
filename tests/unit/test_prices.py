"""Prices are asked for once, kept with their date, and explained when they are missing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from horovod_client.aws.clients import AwsClients
from horovod_client.prices.cache import CachedPrices, PriceCache, default_folder
from horovod_client.prices.fleet_prices import Price, Prices
from horovod_client.prices.lookup import PriceLookup

NOW = 1_700_000_000.0
DAY = 86_400.0


class Market:
    """Two stubbed clients, and lookups that share one cache."""

    def __init__(self, folder: Path) -> None:
        self.cache = PriceCache(folder)
        keys: dict[str, Any] = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        self._pricing = boto3.client("pricing", region_name="eu-central-1", **keys)
        self._ec2 = boto3.client("ec2", region_name="eu-west-1", **keys)
        self.price_list, self.spot = Stubber(self._pricing), Stubber(self._ec2)
        self.price_list.activate()
        self.spot.activate()

    def list_on_demand(self, *products: dict[str, Any]) -> None:
        self.price_list.add_response("get_products", {"PriceList": [json.dumps(product) for product in products]})

    def list_spot(self, usd: dict[str, str]) -> None:
        history = [
            {"InstanceType": "g5.xlarge", "AvailabilityZone": zone, "SpotPrice": price, "Timestamp": moment(NOW)}
            for zone, price in usd.items()
        ]
        self.spot.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": history},
            {"InstanceTypes": ["g5.xlarge"], "ProductDescriptions": ["Linux/UNIX"], "StartTime": ANY},
        )

    def look_up(self, *, now: float = NOW) -> Prices:
        return self.lookup(now=now).prices_of(["g5.xlarge"])

    def lookup(self, *, now: float = NOW) -> PriceLookup:
        clients = AwsClients(region="eu-west-1", pricing=self._pricing, ec2=self._ec2)
        return PriceLookup(region="eu-west-1", clients=clients, cache=self.cache, now=lambda: now)


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def product(usd: str) -> dict[str, Any]:
    return {"terms": {"OnDemand": {"T": {"priceDimensions": {"D": {"pricePerUnit": {"USD": usd}}}}}}}


@pytest.fixture
def market(tmp_path: Path) -> Market:
    """Open the market with an empty cache."""
    return Market(tmp_path / "prices")


def test_prices_come_from_both_services_once(market: Market) -> None:
    """A second lookup takes the first one's prices from the cache and does not ask AWS."""
    # GIVEN one answer of each service
    market.list_on_demand(product("1.006"))
    market.list_spot({"eu-west-1a": "0.5", "eu-west-1b": "0.4"})
    # WHEN
    first, second = market.look_up(), market.look_up(now=NOW + 3_000)
    # THEN
    assert first == second
    assert first.remarks == ()
    assert first.on_demand("g5.xlarge") == Price(
        instance_type="g5.xlarge", market="on-demand", zone="", usd=1.006, at=NOW
    )
    assert [(price.zone, price.usd) for price in first.spot("g5.xlarge")] == [("eu-west-1b", 0.4), ("eu-west-1a", 0.5)]


def test_on_demand_prices_alone(market: Market) -> None:
    """A lookup of On-Demand prices alone does not ask EC2, which would need another permission."""
    # GIVEN one answer of the Price List, and none of EC2
    market.list_on_demand(product("1.006"))
    # WHEN
    prices = market.lookup().on_demand_prices_of(["g5.xlarge", "g5.xlarge"])
    # THEN
    assert prices == Prices(
        found=(Price(instance_type="g5.xlarge", market="on-demand", zone="", usd=1.006, at=NOW),), remarks=()
    )


def test_spot_prices_age_sooner(market: Market) -> None:
    """After two hours a Spot price is asked for again, while the On-Demand price is still valid."""
    # GIVEN
    market.list_on_demand(product("1.006"))
    market.list_spot({"eu-west-1a": "0.5"})
    market.list_spot({"eu-west-1a": "0.6"})
    market.look_up()
    # WHEN
    later = market.look_up(now=NOW + 7_200)
    # THEN
    assert {(price.market, price.usd, price.at) for price in later.found} == {
        ("on-demand", 1.006, NOW),
        ("spot", 0.6, NOW + 7_200),
    }


def test_old_prices_are_better_than_none(market: Market) -> None:
    """When AWS refuses, prices of the cache are used, and their date is shown."""
    # GIVEN
    market.list_on_demand(product("1.006"))
    market.list_spot({"eu-west-1a": "0.5"})
    market.look_up()
    market.price_list.add_client_error("get_products", "AccessDeniedException")
    market.spot.add_client_error("describe_spot_price_history", "UnauthorizedOperation")
    # WHEN
    later = market.look_up(now=NOW + 8 * DAY)
    # THEN
    assert {(price.market, price.usd) for price in later.found} == {("on-demand", 1.006), ("spot", 0.5)}
    assert later.remarks == (
        "the On-Demand price is of 2023-11-14 22:13 UTC for g5.xlarge: "
        "your credentials lack the permission pricing:GetProducts",
        "the Spot price is of 2023-11-14 22:13 UTC for g5.xlarge: "
        "your credentials lack the permission ec2:DescribeSpotPriceHistory",
    )


def test_says_why_there_is_no_price(market: Market) -> None:
    """A missing price has a reason: the type is not listed, or the service failed."""
    # GIVEN
    market.list_on_demand()
    market.spot.add_client_error("describe_spot_price_history", "RequestLimitExceeded", "Slow down.")
    # WHEN
    prices = market.look_up()
    # THEN
    assert prices.found == ()
    assert prices.remarks == (
        "the On-Demand price is not known for g5.xlarge: AWS lists none in eu-west-1",
        "the Spot price is not known for g5.xlarge: "
        "AWS refused ec2:DescribeSpotPriceHistory (RequestLimitExceeded: Slow down)",
    )


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"at": "x", "usd": {}}', '{"at": 1, "usd": {}}', '{"at": NaN, "usd": {"": 1}}']
)
def test_damaged_file_is_no_cache(tmp_path: Path, damage: str) -> None:
    """A damaged cache file is ignored, and the next price replaces it."""
    # GIVEN
    cache, prices = PriceCache(tmp_path), CachedPrices(at=NOW, usd={"": 1.5})
    cache.write("aws", "g5.xlarge", prices=prices)
    (tmp_path / "aws" / "g5.xlarge.json").write_text(damage)
    # WHEN / THEN
    assert cache.read("aws", "g5.xlarge") is None
    cache.write("aws", "g5.xlarge", prices=prices)
    assert cache.read("aws", "g5.xlarge") == prices
    assert [path.name for path in (tmp_path / "aws").iterdir()] == ["g5.xlarge.json"]


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """A price that cannot be written to the cache is used and not kept."""
    # GIVEN
    (tmp_path / "taken").write_text("")
    cache = PriceCache(tmp_path / "taken")
    # WHEN
    cache.write("aws", "g5.xlarge", prices=CachedPrices(at=NOW, usd={"": 1.5}))
    # THEN
    assert cache.read("aws", "g5.xlarge") is None


def test_cache_is_where_users_expect_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache lies in XDG_CACHE_HOME if that is an absolute path, and in ~/.cache otherwise."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_folder() == tmp_path / "x" / "cdk-horovod" / "prices"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_folder() == tmp_path / ".cache" / "cdk-horovod" / "prices"
