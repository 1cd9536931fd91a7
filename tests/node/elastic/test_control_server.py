"""The leader's control server, with nodes that the test plays on real channels."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.elastic import control_server, signed_channel
from horovod_node.elastic.control_server import ControlServer
from horovod_node.elastic.signed_channel import BEAT_SECONDS, KEY_BYTES, Channel
from support.node.loopback import NONCE_BYTES, new_addresses, read
from support.node.played_ring import PlayedNode
from support.waiting import SECONDS, eventually

KEY = bytes(range(KEY_BYTES))


class Lab:
    """A control server, and the nodes that are connected to it."""

    def __init__(self) -> None:
        self.address = new_addresses()
        self._open = ExitStack()
        self.server = self._open.enter_context(closing(ControlServer(self.address(1), contract.CHANNEL_PORT, key=KEY)))

    def node(self, number: int = 2, *, gpus: int = 1, key: bytes = KEY, name: str | None = None) -> PlayedNode:
        """Connect a node."""
        node = PlayedNode(self.address(number), leader=self.address(1), key=key, gpus=gpus, name=name)
        return self._open.enter_context(closing(node))

    def joined(self, number: int = 2, *, gpus: int = 1, name: str | None = None) -> PlayedNode:
        """Connect a node, and wait until the control server knows it."""
        node = self.node(number, gpus=gpus, name=name).join()
        assert eventually(lambda: self.names(), lambda names: node.name in names)
        return node

    def ready(self, number: int = 2, *, gpus: int = 1) -> PlayedNode:
        """Connect a node that offers its ranks, and wait until the control server knows."""
        node = self.joined(number, gpus=gpus).offer()
        self.until_ready(node)
        return node

    def until_ready(self, node: PlayedNode) -> None:
        """Wait until the control server knows of the node's present offer."""
        seen = eventually(lambda: self.look(node.address), lambda seen: seen == (node.generation, True))
        assert seen == (node.generation, True)

    def names(self) -> list[str]:
        """List the nodes that the control server knows."""
        return [member.node for member in self.server.members()]

    def look(self, address: str) -> tuple[int, bool] | None:
        """Give a node's generation, and whether it is ready."""
        member = self.server.member(address)
        return None if member is None else (member.generation, member.ready)

    def close(self) -> None:
        """End everything."""
        self._open.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A control server that nobody is connected to."""
    with closing(Lab()) as lab:
        yield lab


def code(lab: Lab, node: PlayedNode, place: int = 0, *, generation: int | None = None) -> int | None:
    """Give the exit code of a rank as the control server knows it."""
    return lab.server.exit_code(node.address, node.generation if generation is None else generation, place)


def becomes(look: Callable[[], Any], wanted: object) -> bool:
    """Tell whether what is seen becomes what is wanted."""
    return bool(eventually(look, lambda seen: seen == wanted) == wanted)


def test_nodes_join_in_order(lab: Lab) -> None:
    """A node that greets is known, with its GPUs, and has no ranks yet."""
    # WHEN
    nodes = [lab.joined(number, gpus=number) for number in (4, 2, 3)]
    # THEN
    seen = [
        (member.node, member.address, member.gpus, member.generation, member.ready) for member in lab.server.members()
    ]
    assert seen == [(node.name, node.address, node.gpus, 0, False) for node in nodes]
    assert lab.server.departures == []


def test_ranks_are_started_when_they_are_ready(lab: Lab) -> None:
    """A rank is started by its place, with its environment, and only on a node that offered its ranks."""
    # GIVEN
    node = lab.joined(gpus=2)
    early = lab.server.start(node.address, 0, {"HOROVOD_RANK": "0"})
    node.offer()
    lab.until_ready(node)
    # WHEN
    generation = lab.server.start(node.address, 1, {"HOROVOD_RANK": "5"})
    # THEN
    assert (early, generation) == (0, 1)
    assert becomes(lambda: node.told("start"), [[1, 1, {"HOROVOD_RANK": "5"}]])
    assert lab.server.start(lab.address(9), 0, {}) == 0


def test_exit_codes_are_those_of_a_generation(lab: Lab) -> None:
    """What ranks of an earlier offer ended with is never taken for the end of those that run."""
    # GIVEN
    node = lab.ready(gpus=2)
    before = [code(lab, node, place) for place in (0, 1)]
    # WHEN
    node.lose(1, 3)
    # THEN
    assert becomes(lambda: [code(lab, node, place) for place in (0, 1)], [None, 3])
    assert before == [None, None]
    # WHEN the node begins anew
    node.offer()
    lab.until_ready(node)
    node.say(exit=[1, 0, 7])
    node.say(step=1)
    eventually(lambda: [member.step for member in lab.server.members()], lambda steps: steps == [1])
    # THEN
    assert [code(lab, node, place) for place in (0, 1)] == [None, None]
    assert [code(lab, node, place, generation=1) for place in (0, 1)] == [1, 1]


def test_rest_of_a_broken_node_has_ended(lab: Lab) -> None:
    """A node ends all its ranks when one dies: nobody waits for the others until new ones have been offered."""
    # GIVEN
    node = lab.ready(gpus=4)
    # WHEN
    node.lose(2, -11)
    node.say(broken=1, why="a rank was killed")
    # THEN
    assert becomes(lambda: lab.look(node.address), (1, False))
    assert [code(lab, node, place) for place in range(4)] == [1, 1, -11, 1]


def test_rest_of_a_node_that_left_has_ended(lab: Lab) -> None:
    """A node that leaves has no rank any more, and stays connected."""
    # GIVEN
    node = lab.ready(gpus=2)
    # WHEN
    node.lose(0, 1)
    node.leave()
    # THEN
    assert becomes(lambda: lab.look(node.address), (1, False))
    assert [code(lab, node, place) for place in (0, 1)] == [1, 1]
    assert [member.left for member in lab.server.members()] == [True]


def test_late_word_of_an_old_generation_breaks_nothing(lab: Lab) -> None:
    """Only the present ranks can be broken."""
    # GIVEN
    node = lab.ready()
    node.offer()
    lab.until_ready(node)
    # WHEN
    node.say(broken=1, why="long ago")
    node.say(step=1)
    # THEN
    assert becomes(lambda: [member.step for member in lab.server.members()], [1])
    assert lab.look(node.address) == (2, True)


def test_stop_is_for_one_generation(lab: Lab) -> None:
    """A node that has already begun anew is not stopped for what its former ranks did."""
    # GIVEN
    node = lab.ready()
    node.offer()
    lab.until_ready(node)
    # WHEN
    lab.server.stop(node.address, 1)
    # THEN
    assert lab.look(node.address) == (2, True)
    # WHEN
    lab.server.stop(node.address, 2)
    lab.server.stop(node.address, 2)
    # THEN
    assert lab.look(node.address) == (2, False)
    assert lab.server.start(node.address, 0, {}) == 0
    lab.server.tell(node.address, {"over": True})
    assert becomes(lambda: node.told("over"), [True])
    assert node.told("stop") == [2]


def test_interruptions_are_remembered(lab: Lab) -> None:
    """A node that EC2 takes away says so, goes on until it leaves, and its notice is kept."""
    # GIVEN
    node = lab.ready()
    before = time.time()
    # WHEN
    node.say(draining=contract.INTERRUPTION_NOTICE)
    # THEN
    assert becomes(lambda: [member.draining for member in lab.server.members()], [contract.INTERRUPTION_NOTICE])
    assert lab.look(node.address) == (1, True)
    ((name, kind, at),) = lab.server.interruptions
    assert (name, kind) == (node.name, contract.INTERRUPTION_NOTICE)
    assert before <= at <= time.time()


def test_failures_are_collected(lab: Lab) -> None:
    """What nodes say of failures is there in full."""
    # GIVEN
    nodes = [lab.joined(2), lab.joined(3)]
    # WHEN
    for node in nodes:
        node.fail(f"no data on {node.name}")
    # THEN
    assert becomes(
        lambda: sorted(failure.summary for failure in lab.server.failures), ["no data on node-2", "no data on node-3"]
    )


def test_node_that_ends_is_lost(lab: Lab) -> None:
    """A connection that is closed is a node that ended: not silent, and not in order."""
    # GIVEN
    node = lab.ready()
    # WHEN
    node.close()
    # THEN
    assert becomes(lab.names, [])
    (departure,) = lab.server.departures
    assert (departure.node, departure.address, departure.silent, departure.in_order) == (
        node.name,
        node.address,
        False,
        False,
    )
    assert code(lab, node) == 1


def test_node_that_falls_silent_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that says nothing may be cut off, and its departure says so; one that speaks stays."""
    # GIVEN
    monkeypatch.setattr(signed_channel, "SILENCE_SECONDS", 4 * BEAT_SECONDS)
    silent, speaking = lab.ready(2), lab.ready(3)
    # WHEN
    silent.fall_silent()
    # THEN
    assert becomes(lab.names, [speaking.name])
    (departure,) = lab.server.departures
    assert (departure.node, departure.silent, departure.why) == (silent.name, True, "silent for 2 s")
    assert eventually(lambda: silent.end)


def test_node_that_left_departs_in_order(lab: Lab) -> None:
    """The end of a node that had left the ring is no loss."""
    # GIVEN
    node = lab.ready()
    node.leave()
    # WHEN
    node.close()
    # THEN
    assert becomes(lambda: [departure.in_order for departure in lab.server.departures], [True])


def test_node_comes_back(lab: Lab) -> None:
    """A node that connects again takes its own place, even before the control server noticed that it was gone."""
    # GIVEN
    first = lab.ready()
    # WHEN
    again = lab.node()
    again.join()
    # THEN
    assert becomes(lambda: [departure.why for departure in lab.server.departures], ["it came back"])
    assert becomes(lambda: lab.look(again.address), (0, False))
    assert eventually(lambda: first.end)
    assert code(lab, first) == 1
    # WHEN its old connection says something late
    again.offer()
    lab.until_ready(again)
    # THEN
    assert lab.server.start(again.address, 0, {}) == 1
    assert becomes(lambda: again.told("start"), [[1, 0, {}]])
    assert first.told("start") == []


def test_node_that_comes_back_many_times_at_once_is_there_once(lab: Lab) -> None:
    """Of connections that come at the same moment one stays, and every other one is a departure."""
    # GIVEN
    nodes = [lab.node() for _ in range(8)]
    # WHEN
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(PlayedNode.join, nodes))
    # THEN
    assert becomes(lambda: sum(node.end is not None for node in nodes), 7)
    assert (lab.names(), len(lab.server.departures)) == (["node-2"], 7)
    (present,) = [node for node in nodes if node.end is None]
    lab.server.tell(present.address, {"over": True})
    assert becomes(lambda: present.told("over"), [True])


def test_two_nodes_cannot_have_one_address(lab: Lab) -> None:
    """The second is refused, and the first is not disturbed."""
    # GIVEN
    first = lab.ready()
    # WHEN
    second = lab.node(name="another")
    second.join()
    # THEN
    assert eventually(lambda: second.end)
    assert (lab.names(), lab.look(first.address), lab.server.departures) == ([first.name], (1, True), [])


def test_strangers_are_ignored(lab: Lab) -> None:
    """Who does not have the key, or speaks another protocol, or nothing at all, disturbs nobody."""
    # GIVEN
    node = lab.ready()
    place = (lab.address(1), contract.CHANNEL_PORT)
    # WHEN
    stranger = lab.node(3, key=bytes(KEY_BYTES))
    stranger.join()
    with socket.create_connection(place) as browser, socket.create_connection(place):
        browser.sendall(b"GET / HTTP/1.1\r\nHost: leader\r\n\r\n" * 100)
        browser.settimeout(SECONDS)
        read(browser, NONCE_BYTES)
        # THEN
        assert eventually(lambda: stranger.end)
        assert becomes(lambda: _ended(browser), True)
    lab.server.tell(node.address, {"over": True})
    assert becomes(lambda: node.told("over"), [True])
    assert (lab.names(), lab.server.departures) == ([node.name], [])


def _ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    "words",
    [
        {"hello": 5},
        {"exit": [1]},
        {"ready": "soon"},
        {"failure": "{}"},
        {"failure": '"no failure"'},
        {"failure": "[" * 100_000},
        {"step": None},
    ],
)
def test_who_speaks_otherwise_is_lost(lab: Lab, words: dict[str, Any]) -> None:
    """A signed message that is not understood ends the connection; the control server goes on."""
    # GIVEN
    other = lab.ready(3)
    node = lab.ready(2) if "hello" not in words else lab.node(2)
    # WHEN
    node.say(**words)
    # THEN
    assert eventually(lambda: node.end)
    assert becomes(lab.names, [other.name])
    assert [departure.silent for departure in lab.server.departures] == [False] * ("hello" not in words)


def test_nothing_is_not_a_message(lab: Lab) -> None:
    """A first message without a greeting is none of a node's."""
    # GIVEN
    node = lab.node()
    # WHEN
    node.say()
    # THEN
    assert eventually(lambda: node.end)
    assert (lab.names(), lab.server.departures) == ([], [])


def test_leader_gives_signs_of_life(lab: Lab) -> None:
    """A leader that has nothing to say is heard nevertheless."""
    # GIVEN
    with closing(_connect(lab)) as node:
        node.send({"hello": {"node": "node-2", "address": lab.address(2), "gpus": 1}})
        # WHEN / THEN
        assert [node.receive() for _ in range(3)] == [{}, {}, {}]


def test_everybody_is_told(lab: Lab) -> None:
    """What is for all reaches all that are there, and one that is gone keeps nobody from it."""
    # GIVEN
    nodes = [lab.joined(number) for number in (2, 3, 4)]
    nodes[0].close()
    # WHEN
    lab.server.tell_all({"over": True})
    # THEN
    assert becomes(lambda: [node.told("over") for node in nodes[1:]], [[True], [True]])


def test_waiting_ends_with_news(lab: Lab) -> None:
    """Who waits for a change is woken by it, and by no beat."""
    # GIVEN
    node = lab.ready()
    with ThreadPoolExecutor(1) as waiter:
        waiting = waiter.submit(lab.server.wait, 2 * SECONDS)
        time.sleep(5 * BEAT_SECONDS)
        assert not waiting.done()

        # WHEN
        def woken() -> bool:
            node.say(step=1)
            return waiting.done()

        # THEN
        assert eventually(woken)


def test_closed_hub_ends_all_and_leaves_its_port(lab: Lab) -> None:
    """The same process may lead the next attempt: its control server takes the same port at once."""
    # GIVEN
    nodes = [lab.joined(2), lab.joined(3)]
    # WHEN
    lab.server.close()
    # THEN
    assert eventually(lambda: all(node.end for node in nodes))
    with closing(ControlServer(lab.address(1), contract.CHANNEL_PORT, key=KEY)) as second:
        lab.node(2).join()
        assert becomes(lambda: [member.node for member in second.members()], ["node-2"])
    assert lab.server.departures == []


def test_closed_hub_takes_nobody(lab: Lab) -> None:
    """A node whose greeting was on its way is not left waiting for a leader that is over."""
    # GIVEN a connection that was taken, and has not greeted
    late = socket.create_connection((lab.address(1), contract.CHANNEL_PORT), source_address=(lab.address(2), 0))
    late.settimeout(SECONDS)
    late.recv(NONCE_BYTES, socket.MSG_PEEK)
    # WHEN
    lab.server.close()
    # THEN
    with closing(Channel(late, key=KEY, leads=False)) as node:
        node.send({"hello": {"node": "node-2", "address": lab.address(2), "gpus": 1}})
        with pytest.raises(signed_channel.ChannelClosedError) as reason:
            node.receive()
    assert not reason.value.silent
    assert lab.names() == []


def test_fails_when_the_port_is_taken(lab: Lab) -> None:
    """Two leaders never share a port."""
    with pytest.raises(OSError, match="Address already in use"):
        ControlServer(lab.address(1), contract.CHANNEL_PORT, key=KEY)


def _connect(lab: Lab) -> Channel:
    return signed_channel.connect(lab.address(1), contract.CHANNEL_PORT, key=KEY, source=lab.address(2))


def stranger(lab: Lab, number: int) -> socket.socket:
    """Connect from an address, and say nothing."""
    leader = (lab.address(1), contract.CHANNEL_PORT)
    return socket.create_connection(leader, timeout=SECONDS, source_address=(lab.address(number), 0))


def serving() -> int:
    """Count the threads that serve connections."""
    return len([thread for thread in threading.enumerate() if thread.name == "control-member"])


def test_strangers_of_one_address_are_few(lab: Lab) -> None:
    """Who connects and says nothing gets few threads, and keeps no node out."""
    # GIVEN
    with ExitStack() as strangers:
        # WHEN
        for _ in range(100):
            strangers.enter_context(closing(stranger(lab, 9)))
        node = lab.joined()
        # THEN
        # Of one that was turned away, the thread may still be ending.
        most = control_server._STRANGERS_OF_AN_ADDRESS + 1
        assert eventually(serving, lambda number: number <= most) <= most
        assert node.name in lab.names()


def test_all_strangers_together_are_few(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a limit for all addresses, too; when strangers have gone, nodes come in again."""
    # GIVEN
    monkeypatch.setattr(control_server, "_STRANGERS", 6)
    with ExitStack() as strangers:
        # WHEN the control server has greeted, or turned away, each of them
        greetings = [strangers.enter_context(closing(stranger(lab, number))).recv(1) for number in range(10, 20)]
        # THEN
        assert [len(greeting) for greeting in greetings] == [1] * 6 + [0] * 4
    assert becomes(serving, 0)
    assert lab.joined().name in lab.names()
