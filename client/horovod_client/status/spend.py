"""What a run has cost so far, from its nodes' times and the prices that the state machine noted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from horovod_client.aws.ledger_items import Item, RunItems, json_of, number_of, text_of
from horovod_client.prices.fleet_prices import Price, price_of
from horovod_client.status.run_status import Spend
from horovod_node import contract

SILENT_SECONDS: Final = 120
"""A node that was not seen for this long is not there any more, and its bill ended when it was seen last."""
HOUR: Final = 3600


def prices_of(run: Item) -> tuple[Price, ...]:
    """Read the prices out of the run's item; none before it has a fleet, or if they could not be had."""
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
    """When it was seen last."""
    present: bool
    """Whether it is there as far as is known."""


def spend_of(items: RunItems, *, running: bool, now: float) -> Spend | None:
    """
    Add up what the run's nodes have cost; None when no price is known.

    A machine is billed from its boot, or from when it joined. One that is there is billed until now, one that is gone
    until it was seen last.

    Args:
        items: What the ledger says.
        running: Whether the execution still runs; afterwards no node is there.
        now: Epoch seconds.
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
    """Tell the most that the run may cost: what the state machine computes with, else what was asked for."""
    noted = number_of(run, contract.CEILING_USD)
    if noted is not None:
        return noted
    asked = (json_of(run, contract.REQUEST_JSON) or {}).get(contract.MAX_COST_USD)
    return None if asked is None else float(asked)


def spend_of_receipt(cost: Mapping[str, Any]) -> Spend | None:
    """
    Read what a run cost out of its receipt; None when that does not say.

    Args:
        cost: The receipt's `cost`.
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
    """One machine may have an item for each attempt that it took part in, and one for its boot."""

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
