"""Who is in an elastic ring: real driver, control server and rendezvous, with nodes and ranks that the test plays."""

from __future__ import annotations

import http.client
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from horovod.runner.elastic import driver as horovod_driver

from horovod_node import contract
from horovod_node.elastic import driver, signed_channel
from horovod_node.elastic.signed_channel import BEAT_SECONDS
from horovod_node.ring.rendezvous import Rendezvous
from support.node.played_ring import DrivenRing, PlayedNode
from support.waiting import SECONDS, eventually

REMOVED, ADDED = 1, 2
A_WHILE = 1.5
"""Long enough for a driver that would go on to go on; one that waits for good reason is still waiting then."""


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[DrivenRing]:
    """A ring without nodes, whose driver looks often and forgives soon."""
    monkeypatch.setattr(horovod_driver, "DISCOVER_HOSTS_FREQUENCY_SECS", 0.1)
    monkeypatch.setattr(driver, "COOLDOWN_SECONDS", (1, 2))
    monkeypatch.setattr(driver, "_REMIND_SECONDS", 0.1)
    monkeypatch.setattr(signed_channel, "SILENCE_SECONDS", 4 * BEAT_SECONDS)
    with closing(DrivenRing()) as ring:
        yield ring


def vanish(ring: DrivenRing, *nodes: PlayedNode) -> None:
    """Let nodes fall silent, and wait until the control server noticed."""
    for node in nodes:
        node.fall_silent()
    assert eventually(lambda: all(ring.server.member(node.address) is None for node in nodes))


def still_waits(ring: DrivenRing, *asked: Future[list[int]]) -> bool:
    """Tell whether the driver waits, and goes on waiting for a while."""
    assert eventually(lambda: ring.driver.is_waiting)
    time.sleep(A_WHILE)
    return ring.driver.is_waiting and not any(each.done() for each in asked)


def remind(ring: DrivenRing, *, times: int = 1) -> list[int]:
    """Have rank 0 reminded until it was so many times, and give what it was told."""
    before = len(ring.notified)

    def told() -> list[int]:
        ring.driver.remind()
        return ring.notified[before:]

    return eventually(told, lambda told: len(told) >= times)


@pytest.mark.parametrize("others", [1, 5])
def test_leader_is_rank_0(ring: DrivenRing, others: int) -> None:
    """However late the leader's own node was ready, rank 0 is on it, and every other node has the rank it is told."""
    # GIVEN
    nodes = [ring.node(number) for number in range(others + 1, 0, -1)]
    # WHEN
    ring.drive(gpus=8).begin(len(nodes))
    # THEN
    assert ring.runs(*nodes)
    assert ring.driver.ranks_of(ring.address(1)) == [0]
    assert sorted(rank for node in nodes for rank in ring.driver.ranks_of(node.address)) == list(range(len(nodes)))
    told = {node.address: node.started[0] for node in nodes}
    assert [
        [told[node.address][name] for name in ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_SIZE")] for node in nodes
    ] == [[str(ring.driver.ranks_of(node.address)[0]), str(len(nodes)), "1"] for node in nodes]
    for environment in told.values():
        assert environment["HOROVOD_ELASTIC"] == "1"
        assert environment["HOROVOD_GLOO_RENDEZVOUS_ADDR"] == ring.address(1)
        assert environment["HOROVOD_GLOO_RENDEZVOUS_PORT"] == str(contract.RENDEZVOUS_PORT)


def test_nodes_may_have_different_numbers_of_gpus(ring: DrivenRing) -> None:
    """A node of four GPUs beside one of one: five ranks, each GPU one."""
    # WHEN
    small, large = ring.form(1, 4)
    # THEN
    assert ring.driver.assigned() == {small.address: 1, large.address: 4}
    assert [ring.driver.ranks_of(node.address) for node in (small, large)] == [[0], [1, 2, 3, 4]]
    assert {place: environment["HOROVOD_RANK"] for place, environment in large.started.items()} == {
        0: "1",
        1: "2",
        2: "3",
        3: "4",
    }


def test_ring_has_no_more_gpus_than_it_may(ring: DrivenRing) -> None:
    """Of the last node only as many GPUs are used as are still needed; its others are, when the ring loses a node."""
    # GIVEN
    first, second, third = (ring.node(number, gpus=size) for number, size in ((1, 2), (2, 4), (3, 4)))
    ring.drive(gpus=8).begin(8)
    assert ring.runs(first, second, third)
    # WHEN
    partial, full = (second, third) if ring.driver.assigned()[second.address] == 2 else (third, second)
    assert ring.driver.assigned() == {first.address: 2, full.address: 4, partial.address: 2}
    assert sorted(partial.started) == [0, 1]
    ring.gone.add(full.address)
    full.close()
    # THEN
    ranks = ring.reset((first, 0), (first, 1), (partial, 0), (partial, 1))
    assert ranks == [[0, 6], [1, 6], [2, 6], [3, 6]]
    assert ring.runs(first, partial)
    assert sorted(partial.started) == [0, 1, 2, 3]
    assert ring.driver.sizes == [8, 6]


def test_ring_waits_for_its_first_gpus(ring: DrivenRing) -> None:
    """A ring does not begin with less than it was asked to begin with."""
    # GIVEN
    leader = ring.node(1)
    ring.drive(gpus=4, min_gpus=2).begin(2)
    # WHEN
    assert still_waits(ring)
    assert (ring.driver.sizes, leader.started) == ([], {})
    # THEN
    assert ring.runs(leader, ring.node(2))
    assert (ring.driver.sizes, ring.driver.is_waiting) == ([2], False)


def test_ring_begins_without_a_node_that_was_lost_meanwhile(ring: DrivenRing) -> None:
    """Nodes are counted, then the ring is formed: one that is lost in between is not waited for, if enough are left."""
    # GIVEN
    leader, second, third = (ring.node(number) for number in (1, 2, 3))
    third.close()
    assert eventually(lambda: ring.server.member(third.address) is None)
    # WHEN
    ring.drive(gpus=3, min_gpus=2).begin(3)
    # THEN
    assert ring.runs(leader, second)
    assert ring.driver.sizes == [2]


def test_fails_when_there_are_never_enough_gpus(ring: DrivenRing) -> None:
    """Waiting ends, and what was missing is said."""
    # GIVEN
    ring.node(1)
    # WHEN
    driver = ring.drive(gpus=4, min_gpus=2, elastic_seconds=1)
    driver.begin(2)
    # THEN
    assert eventually(driver.finished)
    assert driver.trouble == "The ring had 1 GPUs and needs 2"


def test_ring_goes_on_without_a_node_that_ended(ring: DrivenRing) -> None:
    """The others are told to leave the broken ring at once, and are a ring of their own."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    addresses = sorted(node.address for node in nodes)
    # WHEN
    nodes[2].close()
    # THEN
    assert eventually(lambda: [node.told("sever") for node in nodes[:2]] == [[addresses]] * 2)
    ranks = ring.reset((nodes[0], 0), (nodes[1], 0))
    assert ranks == [[0, 2], [1, 2]]
    assert (ring.driver.sizes, ring.driver.resets, ring.driver.trouble) == ([3, 2], 1, "")


def test_broken_node_does_not_keep_the_ring_waiting(ring: DrivenRing) -> None:
    """One rank of a node with several dies: the others form a ring while that node still starts anew."""
    # GIVEN
    leader, broken = ring.form(2, 4)
    # WHEN
    broken.lose(1)
    broken.say(broken=1, why="a rank was killed")
    # THEN
    ranks = ring.reset((leader, 0), (leader, 1))
    assert ranks == [[0, 2], [1, 2]]
    assert broken.told("stop") == []


def test_rank_that_dies_at_the_reset_breaks_it_no_second_time(ring: DrivenRing) -> None:
    """A rank has left its ring and waits for the next one when it is killed: it counts once, as dead."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    waiting = ring.ask(nodes[2])
    assert eventually(lambda: ring.waiting == 1)
    # WHEN
    nodes[2].begin_anew()
    # THEN its own question is never answered
    with pytest.raises((OSError, http.client.HTTPException)):
        waiting.result(timeout=SECONDS)
    assert ring.reset((nodes[0], 0), (nodes[1], 0)) == [[0, 2], [1, 2]]


def test_node_whose_rank_died_comes_back(ring: DrivenRing) -> None:
    """After its pause it is offered to rank 0 again, and its new ranks are started."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    nodes[1].begin_anew()
    assert ring.reset((nodes[0], 0), (nodes[2], 0)) == [[0, 2], [1, 2]]
    # WHEN
    told = remind(ring)
    # THEN
    assert told[-1] == ADDED
    assert ring.reset((nodes[0], 0), (nodes[2], 0)) == [[0, 3], [1, 3]]
    assert ring.runs(*nodes)
    assert nodes[1].started[0]["HOROVOD_RANK"] == "2"
    assert ring.driver.sizes == [3, 2, 3]


def test_ring_that_is_too_small_waits_for_the_node_whose_rank_died(ring: DrivenRing) -> None:
    """The pause ends, the node is in the ring again, and its new ranks are started as a new node's would be."""
    # GIVEN
    leader, second = ring.form(1, 2, min_gpus=3)
    # WHEN
    second.begin_anew()
    # THEN
    assert ring.reset((leader, 0)) == [[0, 3]]
    assert ring.runs(leader, second)
    assert (second.generation, sorted(second.started), ring.driver.sizes) == (2, [0, 1], [3, 3])


def test_few_do_not_go_on_while_the_others_may(ring: DrivenRing) -> None:
    """Two of three nodes are out of reach: the leader waits until the ledger has not heard of them either."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    # WHEN
    vanish(ring, *nodes[1:])
    asked = ring.ask(nodes[0])
    # THEN
    assert still_waits(ring, asked)
    # WHEN one of them is known to be gone
    ring.gone.add(nodes[1].address)
    # THEN the other still is not
    assert still_waits(ring, asked)
    # WHEN
    ring.gone.add(nodes[2].address)
    # THEN
    assert asked.result(timeout=SECONDS) == [0, 1]


def test_half_is_not_most(ring: DrivenRing) -> None:
    """A ring in two halves that cannot see each other goes on in neither; GPUs are counted, and not nodes."""
    # GIVEN
    leader, second, large = ring.form(1, 1, 2)
    # WHEN
    vanish(ring, large)
    asked = [ring.ask(leader), ring.ask(second)]
    # THEN
    assert still_waits(ring, *asked)
    # WHEN
    ring.gone.add(large.address)
    # THEN
    assert [each.result(timeout=SECONDS) for each in asked] == [[0, 2], [1, 2]]


def test_most_go_on_at_once(ring: DrivenRing) -> None:
    """More than half of a ring need not know what became of the rest."""
    # GIVEN
    large, second, third = ring.form(3, 1, 1)
    # WHEN
    vanish(ring, second, third)
    # THEN
    assert ring.reset((large, 0), (large, 1), (large, 2)) == [[0, 3], [1, 3], [2, 3]]


def test_fails_when_most_stay_out_of_reach(ring: DrivenRing) -> None:
    """Waiting for the others ends, and they are named."""
    # GIVEN
    nodes = ring.form(1, 1, 1, elastic_seconds=2)
    # WHEN
    vanish(ring, *nodes[1:])
    ring.ask(nodes[0])
    # THEN
    assert eventually(ring.driver.finished)
    what, _, names = ring.driver.trouble.partition(": ")
    assert what == "Most of the ring is out of reach and may train on"
    assert sorted(names.split(", ")) == [node.address for node in nodes[1:]]


def test_nodes_that_come_back_are_waited_for_no_longer(ring: DrivenRing) -> None:
    """The network was away and is there again: nodes that are connected anew have ended the ranks that they had."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    vanish(ring, *nodes[1:])
    asked = ring.ask(nodes[0])
    assert still_waits(ring, asked)
    # WHEN
    for number in (2, 3):
        ring.node(number)
    # THEN
    assert asked.result(timeout=SECONDS)[0] == 0


def test_nodes_that_come_back_are_in_the_ring_again(ring: DrivenRing) -> None:
    """A ring that is too small without them takes them in once their pause is over, and starts their new ranks."""
    # GIVEN
    nodes = ring.form(1, 1, 1, min_gpus=3)
    vanish(ring, *nodes[1:])
    asked = ring.ask(nodes[0])
    assert still_waits(ring, asked)
    # WHEN
    again = [ring.node(2), ring.node(3)]
    # THEN
    assert asked.result(timeout=SECONDS) == [0, 3]
    assert ring.runs(nodes[0], *again)
    assert ring.driver.sizes == [3, 3]


def test_node_that_is_in_touch_is_not_out_of_reach(ring: DrivenRing) -> None:
    """A node whose rank died is left out for a while, but its ranks have ended: nobody waits for the ledger's word."""
    # GIVEN
    leader, second = ring.form(1, 3)
    # WHEN
    second.begin_anew()
    # THEN
    assert ring.reset((leader, 0)) == [[0, 1]]


def test_draining_node_leaves_at_the_next_commit(ring: DrivenRing) -> None:
    """Rank 0 is told; at the reset the ranks of the node that EC2 takes away get no place, and it may go."""
    # GIVEN
    nodes = ring.form(1, 1, 1)
    # WHEN
    nodes[1].say(draining=contract.INTERRUPTION_NOTICE)
    # THEN
    assert remind(ring)[-1] == REMOVED
    assert ring.reset(*((node, 0) for node in nodes)) == [[0, 2], [-1, -1], [1, 2]]
    assert ring.driver.assigned() == {nodes[0].address: 1, nodes[2].address: 1}
    # WHEN its rank ends, as a rank without a place does
    nodes[1].lose(0, 1)
    nodes[1].leave()
    # THEN that is no reset
    time.sleep(A_WHILE)
    assert (ring.driver.resets, ring.driver.finished()) == (1, False)
    assert [node.told("sever") for node in nodes] == [[], [], []]


def test_node_that_leaves_before_the_commit_keeps_nobody_waiting(ring: DrivenRing) -> None:
    """A draining node whose rank fails leaves at once, with all its ranks: the others go on."""
    # GIVEN
    leader, leaving = ring.form(3, 2)
    leaving.say(draining=contract.INTERRUPTION_NOTICE)
    # WHEN
    leaving.lose(0, 1)
    leaving.leave()
    # THEN
    assert ring.reset(*((leader, place) for place in range(3))) == [[0, 3], [1, 3], [2, 3]]


def test_draining_node_stays_when_too_few_are_left(ring: DrivenRing) -> None:
    """As long as it lives, a node that EC2 takes away is better than no ring; a newcomer takes its place."""
    # GIVEN
    leader, draining = ring.form(1, 1, min_gpus=2, gpus=2)
    # WHEN
    draining.say(draining=contract.INTERRUPTION_NOTICE)
    time.sleep(A_WHILE)
    ring.driver.remind()
    # THEN
    assert ring.notified == []
    # WHEN
    newcomer = ring.node(3)
    # THEN
    assert remind(ring)[-1] == REMOVED | ADDED
    assert ring.reset((leader, 0), (draining, 0)) == [[0, 2], [-1, -1]]
    assert ring.runs(leader, newcomer)


def test_rank_0_is_reminded_until_it_acts(ring: DrivenRing) -> None:
    """What came during a reset is forgotten by Horovod, so it is said again, and no more once the ring has changed."""
    # GIVEN
    (leader,) = ring.form(1)
    newcomer = ring.node(2)
    # WHEN
    told = remind(ring, times=4)
    # THEN
    assert told == [ADDED] * len(told)
    # WHEN
    assert ring.reset((leader, 0)) == [[0, 2]]
    assert ring.runs(leader, newcomer)
    time.sleep(0.5)
    before = len(ring.notified)
    for _ in range(5):
        time.sleep(0.15)
        ring.driver.remind()
    # THEN
    assert len(ring.notified) == before


def test_ring_that_is_full_takes_nobody_in(ring: DrivenRing) -> None:
    """A node that would have no rank is no reason for a reset."""
    # GIVEN
    ring.form(1, 1, gpus=2)
    # WHEN
    ring.node(3)
    for _ in range(10):
        time.sleep(0.1)
        ring.driver.remind()
    # THEN
    assert ring.notified == []


def test_training_ends_when_all_ranks_end_well(ring: DrivenRing) -> None:
    """Exit code 0 of every rank is the end, without trouble."""
    # GIVEN
    nodes = ring.form(1, 2)
    # WHEN
    for node in nodes:
        for place in range(node.gpus):
            node.lose(place, 0)
    # THEN
    assert eventually(ring.driver.finished)
    assert (ring.driver.trouble, ring.driver.resets) == ("", 0)
    assert [node.told("stop") + node.told("sever") for node in nodes] == [[], []]


def test_training_ends_when_no_rank_is_left(ring: DrivenRing) -> None:
    """A ring that lost all its ranks at once has nobody who knows the state."""
    # GIVEN
    nodes = ring.form(1, 1)
    # WHEN
    for node in nodes:
        node.lose(0)
    # THEN
    assert eventually(ring.driver.finished)
    assert ring.driver.sizes == [2]


def test_resets_have_a_limit(ring: DrivenRing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that breaks again and again is ended."""
    # GIVEN
    monkeypatch.setattr(driver, "RESET_LIMIT", 1)
    nodes = ring.form(1, 1, 1)
    nodes[2].close()
    ring.reset((nodes[0], 0), (nodes[1], 0))
    # WHEN
    nodes[1].close()
    ring.ask(nodes[0])
    # THEN
    assert eventually(ring.driver.finished)
    assert ring.driver.resets == 1


class _Bomb:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def test_nothing_is_unpickled(ring: DrivenRing, tmp_path: Path) -> None:
    """What Horovod's own driver would unpickle, and so execute, is stored as bytes."""
    # GIVEN
    ring.form(1)
    exploded = tmp_path / "exploded"
    payload = pickle.dumps(_Bomb(exploded))
    # WHEN
    stored = ring.get("/worker_addresses/127.0.0.1:0", method="PUT", body=payload)
    # THEN
    assert stored[0] == 200
    assert ring.get("/worker_addresses/127.0.0.1:0") == (200, payload)
    assert not exploded.exists()
    pickle.loads(payload)  # noqa: S301 - it is ours
    assert exploded.exists()


@pytest.mark.parametrize("key", ["127.9.9.9:0", "{leader}:7"])
def test_stranger_takes_no_ranks_place(ring: DrivenRing, key: str) -> None:
    """Who has no place in the ring is told so at once, and is not counted as a rank that waits for the next one."""
    # GIVEN
    nodes = ring.form(1, 1)
    # WHEN
    told = ring.get("/rank_and_size/" + key.format(leader=nodes[0].address))
    first = ring.ask(nodes[0])
    # THEN
    assert told == (200, b"-1,-1,-1,-1,-1,-1")
    time.sleep(A_WHILE)
    assert not first.done()
    assert [*ring.reset((nodes[1], 0)), first.result(timeout=SECONDS)] == [[1, 2], [0, 2]]


@pytest.mark.parametrize("key", ["nonsense", "a:b", ":", "127.0.0.1:-1"])
def test_question_that_is_none(ring: DrivenRing, key: str) -> None:
    """What is no host and place has no value."""
    # GIVEN
    ring.form(1)
    # WHEN / THEN
    assert ring.get(f"/rank_and_size/{key}")[0] == 404


def test_driver_may_be_stopped_by_many(ring: DrivenRing) -> None:
    """The end of the training, an error and the leader's way out may all stop it, at once or one after the other."""
    # GIVEN
    ring.form(1, 1)
    # WHEN
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ring.driver.stop(), range(8)))
    ring.driver.stop()
    # THEN
    assert ring.driver.finished()
    with closing(Rendezvous(ring.address(1), contract.RENDEZVOUS_PORT)):
        assert ring.get("/global/0")[0] == 404


def test_driver_may_be_stopped_while_it_waits(ring: DrivenRing) -> None:
    """A leader that goes before its ring was formed leaves no thread and no trouble behind."""
    # GIVEN
    ring.node(1)
    driver = ring.drive(gpus=2, min_gpus=2)
    driver.begin(2)
    assert eventually(lambda: driver.is_waiting)
    # WHEN
    driver.stop()
    # THEN
    assert eventually(lambda: not driver.is_waiting)
    assert (driver.finished(), driver.sizes) == (True, [])
