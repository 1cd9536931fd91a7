"""A node's end of an elastic ring, with a real control server, and ranks that wait for a ring which is never formed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from horovod_node import contract
from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.elastic.control_server import ControlServer, Member
from horovod_node.elastic.member import ChannelPlace, RingMember
from horovod_node.elastic.signed_channel import KEY_BYTES
from horovod_node.node.errors import LeaderLostError
from horovod_node.node.failure import NodeFailedError
from horovod_node.rank_process.control import FORMING
from support.node.loopback import new_addresses
from support.waiting import SECONDS

KEY = bytes(range(KEY_BYTES))
SCRIPT = """
import time

from horovod.common.basics import HorovodBasics


class Basics(HorovodBasics):
    # In the place of the compiled library: a ring that takes for ever to form.
    def __init__(self):
        pass

    def shutdown(self):
        pass

    @property
    def MPI_LIB_CTYPES(self):
        time.sleep(600)


Basics().init()
"""


class Lab:
    """A control server, and one node of two GPUs that is connected to it."""

    def __init__(self, work: NodeAttempt, *, leads: bool) -> None:
        address = new_addresses()
        self.address = address(1) if leads else address(2)
        self._open = ExitStack()
        self.server = self._open.enter_context(closing(ControlServer(address(1), contract.CHANNEL_PORT, key=KEY)))
        fetched: Future[None] = Future()
        fetched.set_result(None)
        self.member = self._open.enter_context(
            closing(
                RingMember(
                    replace(work, node=replace(work.node, address=self.address, gpus=2)),
                    ChannelPlace(leader="node-1", address=address(1), port=contract.CHANNEL_PORT, key=KEY.hex()),
                    fetched=fetched,
                    leads=leads,
                )
            )
        )

    @property
    def known(self) -> Member:
        """The node as the control server knows it."""
        member = self.server.member(self.address)
        assert member is not None
        return member

    def turn_until(self, wanted: Callable[[], object]) -> None:
        """Let the node do what is due until something is so."""
        until = time.monotonic() + SECONDS
        while not wanted():
            assert time.monotonic() < until
            self.member.turn()
            time.sleep(0.02)

    def until_ready(self, generation: int) -> None:
        """Let the node offer its ranks."""

        def ready() -> bool:
            member = self.server.member(self.address)
            return member is not None and member.ready and member.generation == generation

        self.turn_until(ready)

    def start(self) -> None:
        """Start the ring on both ranks, and wait until they form it."""
        for place in (0, 1):
            assert self.server.start(self.address, place, {"HOROVOD_RANK": str(place)})
        training = self.member.training
        assert training is not None

        def forming() -> bool:
            training.failure()
            return [line.state for line in training.lines.values()] == [FORMING] * 2

        self.turn_until(forming)

    def close(self) -> None:
        """End everything."""
        self._open.close()


@pytest.fixture
def make_lab(work: NodeAttempt) -> Iterator[Callable[[bool], Lab]]:
    """Make a lab with the leader's own node or with another."""
    (work.layout.code / "train.py").write_text(SCRIPT)
    with ExitStack() as labs:
        yield lambda leads: labs.enter_context(closing(Lab(work, leads=leads)))


@pytest.fixture
def follower(make_lab: Callable[[bool], Lab]) -> Lab:
    """A node whose ranks form a ring."""
    lab = make_lab(False)
    lab.until_ready(1)
    lab.start()
    return lab


def test_node_offers_its_ranks_when_they_wait(make_lab: Callable[[bool], Lab]) -> None:
    """The control server hears of a node with its GPUs, and of its ranks once all of them wait for a ring."""
    # WHEN
    lab = make_lab(False)
    lab.until_ready(1)
    # THEN
    assert (lab.known.node, lab.known.gpus, lab.known.ready) == ("node-1", 2, True)
    assert lab.member.state == contract.NODE_READY


def test_node_that_lost_its_leader_comes_back(follower: Lab) -> None:
    """Its ranks end with the connection; it connects again and offers new ones."""
    # WHEN
    follower.known.channel.close()
    follower.until_ready(2)
    # THEN
    assert [departure.address for departure in follower.server.departures] == [follower.address]
    assert follower.server.exit_code(follower.address, 1, 0) == 1


def test_node_that_finds_no_leader_gives_up(follower: Lab) -> None:
    """A leader that stays away is lost, and with it the attempt."""
    # WHEN
    follower.server.close()
    # THEN
    with pytest.raises(LeaderLostError, match=r"Leader node-1 \(127\..*\) is gone"):
        follower.turn_until(lambda: False)
    assert follower.member.training is None


def test_leaders_own_node_does_not_come_back(make_lab: Callable[[bool], Lab]) -> None:
    """When the leader loses its own ranks, the state that others would get is lost: the attempt is over."""
    # GIVEN
    lab = make_lab(True)
    lab.until_ready(1)
    lab.start()
    # WHEN
    lab.known.channel.close()
    # THEN
    with pytest.raises(NodeFailedError) as failure:
        lab.turn_until(lambda: False)
    assert failure.value.error == contract.ERROR_NODE_FAILED
    assert failure.value.failure.origin == "node"


def test_leaders_own_node_may_come_late(make_lab: Callable[[bool], Lab]) -> None:
    """Before it is in a ring, nothing is lost with the connection."""
    # GIVEN
    lab = make_lab(True)
    lab.until_ready(1)
    # WHEN
    lab.known.channel.close()
    # THEN
    lab.until_ready(2)


def test_node_that_is_told_to_stop_offers_new_ranks(follower: Lab) -> None:
    """The leader ends a node's ranks when one of them has died; word for an earlier set is not obeyed."""
    # WHEN
    follower.server.stop(follower.address, 1)
    follower.until_ready(2)
    follower.server.tell(follower.address, {"stop": 1})
    follower.server.tell(follower.address, {"start": [1, 0, {}]})
    for _ in range(20):
        follower.member.turn()
        time.sleep(0.02)
    # THEN
    assert (follower.known.generation, follower.known.ready) == (2, True)
    training = follower.member.training
    assert training is not None
    assert [line.state for line in training.lines.values()] == ["standby"] * 2


def test_node_whose_rank_dies_begins_anew(follower: Lab) -> None:
    """All its ranks end, the control server hears which one died, and there are new ones."""
    # GIVEN
    training = follower.member.training
    assert training is not None
    # WHEN
    training._ranks._ranks[1].process.kill()
    # THEN
    follower.turn_until(lambda: follower.server.exit_code(follower.address, 1, 1) == -9)
    follower.until_ready(2)
    assert follower.server.exit_code(follower.address, 1, 0) == 1


def test_draining_node_leaves_when_it_is_stopped(follower: Lab) -> None:
    """A node that EC2 takes away offers nothing any more, and stays connected."""
    # GIVEN
    follower.member.drain(contract.INTERRUPTION_NOTICE)
    follower.turn_until(lambda: follower.known.draining)
    assert follower.member.state == contract.NODE_DRAINING
    # WHEN
    follower.server.stop(follower.address, 1)
    # THEN
    follower.turn_until(lambda: follower.known.left)
    assert (follower.member.state, follower.member.training) == (contract.NODE_LEFT, None)


def test_ranks_that_were_ended_may_be_ended_again(follower: Lab) -> None:
    """Whoever ends the ranks first: the node's way out does not fail over it."""
    # GIVEN
    training = follower.member.training
    assert training is not None
    # WHEN
    training.kill()
    # THEN
    training.kill()
    assert not training.running
    follower.member.close()
