"""A receipt without On-Demand prices gets its costs from the client's prices."""

from __future__ import annotations

from typing import Any

from horovod_client.prices.fleet_prices import Price, Prices, price_of
from horovod_client.results.receipt_costs import complete_costs

PRICES = Prices(found=(Price(instance_type="g5.xlarge", market="on-demand", zone="", usd=1.2),))


def node(market: str, **facts: Any) -> dict[str, Any]:
    """Build the row of a node that was there for half an hour."""
    times = {"from": "2026-03-01T10:00:00Z", "until": "2026-03-01T10:30:00Z"}
    return {"node": f"i-{market}", "instance_type": "g5.xlarge", "market": market, **times, **facts}


def test_adds_the_list_price_to_nodes_without_one() -> None:
    """The On-Demand node gets its cost, the Spot node keeps its own, and the run knows what Spot saved."""
    # GIVEN
    receipt = {"run": "r", "nodes": [node("on-demand"), node("spot", usd_per_hour=0.4, usd=0.2)]}
    # WHEN
    completed = complete_costs(receipt, prices=PRICES)
    # THEN
    assert [row["usd"] for row in completed["nodes"]] == [0.6, 0.2]
    assert completed["cost"] == {"usd": 0.8, "on_demand_usd": 1.2, "saved_usd": 0.4}


def test_says_nothing_without_a_price() -> None:
    """A node whose type has no price leaves the receipt without costs, because half a sum misleads."""
    # GIVEN
    receipt = {"run": "r", "nodes": [node("on-demand"), node("spot", usd=0.2)]}
    # THEN
    assert complete_costs(receipt, prices=Prices()) == receipt


def test_on_demand_is_never_charged_as_spot() -> None:
    """With Spot prices alone, the cost of an On-Demand node stays unknown."""
    # GIVEN
    prices = [Price(instance_type="g5.xlarge", market="spot", zone="a", usd=0.4)]
    # THEN
    assert price_of(prices, instance_type="g5.xlarge", market="on-demand", zone="a") is None
    assert price_of(prices, instance_type="g5.xlarge", market="spot", zone="b") == 0.4
