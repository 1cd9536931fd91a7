"""
Completion of receipts without costs.

A receipt has no costs if the run had no On-Demand prices: neither from the construct, nor from the Price List API,
which state machines can call in three Regions only, nor from the client that started the run. A client then completes
the receipt with current prices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from horovod_client.prices.fleet_prices import Prices
from horovod_node import contract

HOUR: Final = 3600


def complete_costs(receipt: Mapping[str, Any], *, prices: Prices) -> dict[str, Any]:
    """
    Return the receipt with its missing costs, as far as prices are known; existing costs do not change.

    Args:
        receipt: Receipt from `Run.receipt`.
        prices: Prices of its nodes' types.
    """
    nodes = [_complete(node, prices) for node in receipt.get("nodes") or []]
    completed = {**receipt, "nodes": nodes} if nodes else dict(receipt)
    costs = _costs_of_jobs(receipt.get("jobs") or [], prices) | dict(receipt.get("cost") or {})
    # For unlisted nodes only their sums are known.
    counted = [*nodes, *filter(None, [receipt.get("more_nodes")])]
    for name in ("usd", "on_demand_usd"):
        amounts = [node.get(name) for node in counted]
        if nodes and name not in costs and None not in amounts:
            costs[name] = round(sum(amount for amount in amounts if amount is not None), 4)
    if "saved_usd" not in costs and {"usd", "on_demand_usd"} <= set(costs):
        costs["saved_usd"] = round(costs["on_demand_usd"] - costs["usd"], 4)
    return {**completed, "cost": costs} if costs else completed


def _costs_of_jobs(jobs: Sequence[Mapping[str, Any]], prices: Prices) -> dict[str, float]:
    """Return what a provider bills for *jobs*, nothing if the price of one of them is unknown."""
    listed = [prices.on_demand(job["instance_type"]) for job in jobs]
    if not jobs or None in listed:
        return {}
    return {
        name: round(
            sum(
                job["nodes"] * job[seconds] / HOUR * price.usd for job, price in zip(jobs, listed, strict=True) if price
            ),
            4,
        )
        for name, seconds in (("usd", "billed_seconds"), ("on_demand_usd", "seconds"))
    }


def _complete(node: Mapping[str, Any], prices: Prices) -> dict[str, Any]:
    listed = prices.on_demand(node["instance_type"])
    hours = (datetime.fromisoformat(node["until"]) - datetime.fromisoformat(node["from"])).total_seconds() / HOUR
    found: dict[str, Any] = {}
    if listed is not None:
        found["on_demand_usd"] = round(hours * listed.usd, 4)
        if node["market"] == contract.ON_DEMAND:
            found |= {"usd_per_hour": listed.usd, "usd": found["on_demand_usd"]}
    return {**found, **node}
