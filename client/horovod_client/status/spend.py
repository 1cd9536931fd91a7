"""Cost of a run so far, from its nodes' times and the prices in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from horovod_client.aws.ledger_items import Item, RunItems, json_of, number_of, text_of
from horovod_client.prices.fleet_prices import Price, price_of
from horovod_client.status.run_status import Spend
from horovod_node import contract

SILENT_SECONDS: Final = 120
"""A node that was not seen for this long counts as gone; its cost ends at its last sign of life."""
HOUR: Final = 3600


def prices_of(run: Item) -> tuple[Price, ...]:
    """Read the prices from the run's item; none before it has a fleet, or if they could not be looked up."""
    rows: Sequence[Mapping[str, Any]] = json_of(run, contract.PRICES_JSON) or ()
    return tuple(
        Price(
            instance_type=str(row["instance_type"]),
            market=str(row["market"]),
            zone=str(row["zone"]),
            usd=float(row["usd"]),
        )
        for row in rows
    )


@dataclass(frozen=True, kw_only=True)
class _Bill:
    usd_per_hour: float
    since: float
    until: float
    """Time of the last sign of life, in epoch seconds."""
    present: bool
    """Whether the node still runs, as far as is known."""


def spend_of(items: RunItems, *, running: bool, now: float) -> Spend | None:
    """
    Add up the cost of the run's nodes; None if no price is known.

    A node costs from its boot, or else from its join, until now, or until its last sign of life if it is gone.

    Args:
        items: The run's ledger items.
        running: Whether the execution still runs; if not, every node is gone.
        now: Current time, in epoch seconds.
    """
    prices = prices_of(items.run)
    if not prices:
        return None
    machines: dict[str, list[Item]] = {}
    for (_, node), item in items.nodes.items():
        machines.setdefault(node, []).append(item)
    for node, item in items.boots.items():
        machines.setdefault(node, []).append(item)
    bills = [bill for found in machines.values() if (bill := _bill(found, prices, running=running, now=now))]
    return Spend(
        usd=sum(
            bill.usd_per_hour * max(0.0, (now if bill.present else bill.until) - bill.since) / HOUR for bill in bills
        ),
        usd_per_hour=sum(bill.usd_per_hour for bill in bills if bill.present),
        ceiling_usd=ceiling_of(items.run),
        unpriced=len(machines) - len(bills),
    )


def ceiling_of(run: Item) -> float | None:
    """Return the run's cost ceiling: the state machine's, or else the request's; None if there is none."""
    noted = number_of(run, contract.CEILING_USD)
    if noted is not None:
        return noted
    asked = (json_of(run, contract.REQUEST_JSON) or {}).get(contract.MAX_COST_USD)
    return None if asked is None else float(asked)


def spend_of_receipt(cost: Mapping[str, Any]) -> Spend | None:
    """
    Read the cost of a run from its receipt; None if the receipt has none.

    Args:
        cost: Field `cost` of the receipt.
    """
    usd = cost.get("usd")
    if usd is None:
        return None
    return Spend(
        usd=float(usd),
        usd_per_hour=float(cost.get(contract.USD_PER_HOUR) or 0.0),
        ceiling_usd=cost.get(contract.CEILING_USD),
        on_demand_usd=cost.get("on_demand_usd"),
        saved_usd=cost.get("saved_usd"),
    )


def _bill(found: Sequence[Item], prices: Iterable[Price], *, running: bool, now: float) -> _Bill | None:
    """Compute the bill of an instance from its items: one for its boot, and one for each attempt that it joined."""

    def first(name: str) -> str:
        return next((text for item in found if (text := text_of(item, name))), "")

    usd = price_of(
        prices,
        instance_type=first(contract.INSTANCE_TYPE),
        market=first(contract.MARKET),
        zone=first(contract.ZONE),
    )
    starts = [
        start
        for name in (contract.BOOTED_AT, contract.JOINED_AT, contract.SEEN_AT)
        for item in found
        if (start := number_of(item, name))
    ]
    if usd is None or not starts:
        return None
    seen = max(number_of(item, contract.SEEN_AT) or 0.0 for item in found)
    return _Bill(usd_per_hour=usd, since=min(starts), until=seen, present=running and now - seen <= SILENT_SECONDS)
