"""The ring's plan, for all the fleets that one can think of."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_node import contract
from horovod_node.ledger.ledger import NodeItem
from horovod_node.local_ranks.plan import RingHost, RingPlan, gloo_timeout_seconds, plan_ring
from horovod_node.node.errors import RunError


def item(number: int, *, gpus: int = 4, zone: str = "a", state: str = contract.NODE_READY) -> NodeItem:
    """Make a node with sane defaults."""
    return NodeItem(
        id=f"node-{number}",
        address=f"10.0.{number // 256}.{number % 256}",
        gpus=gpus,
        instance_type="g5.12xlarge",
        zone=zone,
        market=contract.SPOT,
        state=state,
        step=0,
        seen_at=0,
    )


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[NodeItem], str, int]:
    """Draw ready nodes, a leader among them, and a number of GPUs that they have."""
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, max_size=20))
    nodes = [item(number, gpus=gpus, zone=draw(st.sampled_from("abc"))) for number, gpus in enumerate(sizes)]
    leader = draw(st.sampled_from([node.id for node in nodes]))
    return nodes, leader, draw(st.integers(1, sum(sizes)))


@given(fleets(), st.randoms())
def test_plan_holds_exactly_the_ranks_that_were_asked_for(
    fleet: tuple[list[NodeItem], str, int], order: random.Random
) -> None:
    """Rank 0 is on the leader, every rank is somewhere once, and no node holds more ranks than it has GPUs."""
    # GIVEN
    nodes, leader, gpus = fleet
    # WHEN
    plan = plan_ring(nodes, leader=leader, gpus=gpus, port=29400)
    # THEN
    assert plan is not None
    slots = plan.slots()
    assert [slot.rank for slot in slots] == list(range(gpus))
    assert {slot.size for slot in slots} == {gpus}
    assert plan.hosts[0].node == leader
    assert plan.addresses[0] == slots[0].hostname
    sizes = {node.address: node.gpus for node in nodes}
    assert all(0 < host.slots <= sizes[host.address] for host in plan.hosts)
    assert [rank for host in plan.hosts for rank in plan.ranks_of(host.node)] == list(range(gpus))
    assert {slot.rank for slot in slots if slot.hostname == leader} <= set(plan.ranks_of(leader))
    # AND no node but the last could be left out
    assert sum(host.slots for host in plan.hosts[:-1]) < gpus
    # AND every node computes the same plan
    shuffled = list(nodes)
    order.shuffle(shuffled)
    assert plan_ring(shuffled, leader=leader, gpus=gpus, port=29400) == plan
    assert RingPlan.from_text(plan.to_text()) == plan


@given(fleets())
def test_plan_waits_for_enough_gpus(fleet: tuple[list[NodeItem], str, int]) -> None:
    """Without enough ready GPUs there is no plan."""
    # GIVEN
    nodes, leader, _ = fleet
    # WHEN / THEN
    assert plan_ring(nodes, leader=leader, gpus=sum(node.gpus for node in nodes) + 1, port=29400) is None


def test_plan_prefers_large_nodes_and_takes_part_of_the_last() -> None:
    """Few nodes make a fast ring; of the last node only what is missing is taken."""
    # GIVEN
    nodes = [item(1, gpus=1), item(2, gpus=4), item(3, gpus=8, zone="b"), item(4, gpus=8, zone="a")]
    # WHEN
    plan = plan_ring(nodes, leader="node-1", gpus=15, port=29400)
    # THEN
    assert plan == RingPlan(
        hosts=(
            RingHost(node="node-1", address="10.0.0.1", slots=1),
            RingHost(node="node-4", address="10.0.0.4", slots=8),
            RingHost(node="node-3", address="10.0.0.3", slots=6),
        ),
        port=29400,
        gloo_timeout_seconds=30,
    )
    assert plan.host("node-2") is None
    assert list(plan.ranks_of("node-2")) == []
    assert list(plan.ranks_of("node-3")) == [9, 10, 11, 12, 13, 14]


def test_plan_needs_its_leader() -> None:
    """Others may be ready first; without the leader there is no rendezvous."""
    # GIVEN
    nodes = [item(1, state=contract.NODE_JOINED), item(2), item(3)]
    # WHEN / THEN
    assert plan_ring(nodes, leader="node-1", gpus=4, port=29400) is None


def test_fails_when_two_nodes_have_one_address() -> None:
    """Horovod tells nodes apart by address only."""
    # GIVEN
    twins = [item(1), item(257 * 256)]
    same = [twins[0], NodeItem(**{**vars(twins[1]), "address": twins[0].address})]
    # WHEN / THEN
    with pytest.raises(RunError, match=r"both have the address 10\.0\.0\.1"):
        plan_ring(same, leader="node-1", gpus=8, port=29400)


@pytest.mark.parametrize(("ranks", "seconds"), [(1, 30), (63, 30), (64, 120), (128, 300), (256, 600), (1024, 600)])
def test_large_rings_wait_longer(ranks: int, seconds: int) -> None:
    """Small rings find a lost host soon; large ones need the time to meet."""
    assert gloo_timeout_seconds(ranks) == seconds
