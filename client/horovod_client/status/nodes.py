"""The nodes of a run's current attempt, including instances that have not joined yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from horovod_client.aws.ledger_items import Item, RunItems, number_of, text_of
from horovod_client.prices.fleet_prices import Price, price_of
from horovod_client.status.instances import Instance
from horovod_client.status.run_status import NODE_PULLING, NODE_STARTED, NodeStatus
from horovod_client.status.spend import prices_of
from horovod_node import contract

FORGOTTEN_SECONDS: Final = 1800
"""If the group's instances are unknown, one that was last seen pulling the image this long ago no longer counts."""


def nodes_of(
    items: RunItems,
    *,
    instances: Collection[Instance] | None = None,
    starting: bool,
    gpus_of: Mapping[str, int],
    now: float,
) -> tuple[NodeStatus, ...]:
    """
    List the nodes of the current attempt: the leader, then other joined nodes, then instances that have not joined.

    Args:
        items: The run's ledger items.
        instances: Instances of the run's fleet. Default: unknown.
        starting: Whether nodes are still starting; if not, instances that have not joined are left out.
        gpus_of: GPUs of each instance type of the fleet.
        now: Current time, in epoch seconds.
    """
    prices = prices_of(items.run)
    leader = items.leaders.get(items.attempt)
    joined = {node: item for (attempt, node), item in items.nodes.items() if attempt == items.attempt}
    found = [_joined(node, item, leads=node == leader, prices=prices) for node, item in joined.items()]
    found.sort(key=lambda status: (not status.leads, status.node))
    if not starting:
        return tuple(found)
    there = None if instances is None else {instance.id: instance for instance in instances}
    boots = {
        node: item
        for node, item in items.boots.items()
        if node not in joined
        and (node in there if there is not None else now - (number_of(item, contract.SEEN_AT) or 0) < FORGOTTEN_SECONDS)
    }
    found += [_pulling(node, item, gpus_of=gpus_of) for node, item in sorted(boots.items())]
    found += [
        NodeStatus(
            node=instance.id,
            state=NODE_STARTED,
            gpus=instance.gpus,
            instance_type=instance.instance_type,
            market="",
            zone=instance.zone,
        )
        for instance in sorted((there or {}).values(), key=lambda instance: instance.id)
        if instance.id not in joined and instance.id not in boots
    ]
    return tuple(found)


def _joined(node: str, item: Item, *, leads: bool, prices: Collection[Price]) -> NodeStatus:
    instance_type, market, zone = (
        text_of(item, name) or "" for name in (contract.INSTANCE_TYPE, contract.MARKET, contract.ZONE)
    )
    return NodeStatus(
        node=node,
        state=text_of(item, contract.STATE) or contract.NODE_JOINED,
        gpus=int(number_of(item, contract.GPUS) or 0),
        instance_type=instance_type,
        market=market,
        zone=zone,
        seen_at=number_of(item, contract.SEEN_AT),
        started_at=number_of(item, contract.BOOTED_AT) or number_of(item, contract.JOINED_AT),
        step=int(number_of(item, contract.STEP) or 0),
        leads=leads,
        interruption=text_of(item, contract.INTERRUPTION) or "",
        usd_per_hour=price_of(prices, instance_type=instance_type, market=market, zone=zone),
    )


def _pulling(node: str, item: Item, *, gpus_of: Mapping[str, int]) -> NodeStatus:
    instance_type = text_of(item, contract.INSTANCE_TYPE) or ""
    return NodeStatus(
        node=node,
        state=NODE_PULLING,
        gpus=gpus_of.get(instance_type, 0),
        instance_type=instance_type,
        market=text_of(item, contract.MARKET) or "",
        zone=text_of(item, contract.ZONE) or "",
        seen_at=number_of(item, contract.SEEN_AT),
        started_at=number_of(item, contract.BOOTED_AT),
    )
