"""The line between an agent and a rank, with real processes at its other end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from horovod_node import contract
from horovod_node.rank_process.control import ENV_CONTROL, FORMING, IN_RING, STANDBY, AgentConnection, RankConnection
from support.node.loopback import new_addresses
from support.waiting import SECONDS, eventually

SAY = """
import json, os, socket, sys

from horovod_node.rank_process.import_hooks import AfterImport
from horovod_node.rank_process.control import AgentConnection


def say(**facts):
    print(json.dumps(facts), flush=True)

"""
START = """
agent = AgentConnection.from_environment(os.environ)
AfterImport(agent.hooks()).install()
agent.start()
"""
RANK = (
    SAY
    + """
import horovod.common.basics as basics


def connect(places):
    return [socket.create_connection(tuple(place), timeout=30) for place in places]


def state(connection):
    connection.settimeout(0.3)
    try:
        return "open" if connection.recv(1) else "closed"
    except TimeoutError:
        return "open"
    except OSError:
        return "closed"


class Basics(basics.HorovodBasics):
    # In the place of the compiled library: the peers that a ring is connected with are those that the test names.
    def __init__(self):
        self.connections = []

    def form(self):
        self.connections = connect(json.loads(os.environ["PEERS"]))

    def rank(self):
        return int(os.environ["HOROVOD_RANK"])

    def size(self):
        return int(os.environ["HOROVOD_SIZE"])


basics.HorovodBasics.init = lambda instance: instance.form()
"""
    + START
)
"""A rank whose `hvd.init()` connects to the peers that the test names."""


class Lab:
    """Ranks, and peers for them to connect to."""

    def __init__(self) -> None:
        self.address = new_addresses()
        self._open = ExitStack()

    def rank(self, script: str) -> tuple[RankConnection, subprocess.Popen[str]]:
        """Start a rank that runs *script* behind the hooks."""
        line = self._open.enter_context(closing(RankConnection()))
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                ENV_CONTROL: str(line.ranks_end.fileno()),
            },
            pass_fds=(line.ranks_end.fileno(),),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line.handed_over()
        self._open.callback(process.wait, SECONDS)
        self._open.callback(process.kill)
        return line, process

    def peer(self, number: int, port: int = 0) -> tuple[str, int]:
        """Listen on an address of this test's own, and give the place."""
        server = self._open.enter_context(socket.create_server((self.address(number), port)))
        host, port = server.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """End everything."""
        self._open.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab without ranks."""
    with closing(Lab()) as lab:
        yield lab


def state(line: RankConnection, wanted: str) -> str:
    """Wait for the rank's word."""

    def look() -> str:
        line.poll()
        return line.state

    return eventually(look, lambda seen: seen == wanted)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read one line of what the rank says."""
    assert process.stdout is not None
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    return facts


def go_on(process: subprocess.Popen[str]) -> None:
    """Let the rank's script go on, which waits for a line."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_rank_waits_in_init_until_it_is_told(lab: Lab) -> None:
    """In standby it has no ring's environment yet; it gets it with the word to start, and tells what became of it."""
    # GIVEN
    line, process = lab.rank(
        RANK
        + """
say(before=os.environ.get("HOROVOD_RANK"))
ring = Basics()
ring.init()
say(after=os.environ.get("HOROVOD_RANK"))
sys.stdin.readline()
os.environ["HOROVOD_RANK"] = "0"
ring.init()
say(again=os.environ.get("HOROVOD_RANK"))
sys.stdin.readline()
"""
    )
    assert said(process) == {"before": None}
    assert state(line, STANDBY) == STANDBY
    # WHEN
    line.start({"HOROVOD_RANK": "3", "HOROVOD_SIZE": "5", "PEERS": "[]"})
    # THEN
    assert said(process) == {"after": "3"}
    assert state(line, IN_RING) == IN_RING
    assert (line.rank, line.size, line.formed) == (3, 5, 1)
    # WHEN a later ring is formed, of which Horovod tells the rank
    go_on(process)
    # THEN nobody has to say start
    assert said(process) == {"again": "0"}
    assert eventually(lambda: (line.poll(), line.formed)[1], lambda formed: formed == 2) == 2
    assert (line.rank, line.state) == (0, IN_RING)


def test_rank_whose_init_fails_is_in_no_ring(lab: Lab) -> None:
    """Its last word is that it tried."""
    # GIVEN
    line, process = lab.rank(
        RANK
        + """
try:
    Basics().init()
except ConnectionRefusedError:
    say(refused=True)
sys.stdin.readline()
"""
    )
    # WHEN
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        line.start({"PEERS": json.dumps([closed.getsockname()])})
        # THEN
        assert said(process) == {"refused": True}
    assert state(line, FORMING) == FORMING
    assert (line.rank, line.formed) == (None, 0)


def test_rank_hears_that_hosts_have_changed(lab: Lab) -> None:
    """What Horovod's own manager hands on to the state is what the agent said, the second of two quick changes too."""
    # GIVEN
    line, process = lab.rank(
        SAY
        + START
        + """
from horovod.common.elastic import State, notification_manager

notification_manager.init()
state = State(bcast_object=None, get_rank=lambda: 0)
notification_manager.register_listener(state)
say(listens=True)
seen = [state._host_messages.get() for _ in range(2)]
say(results=[int(result) for _, result in seen], ordered=seen[0][0] < seen[1][0], service=notification_manager._service)
"""
    )
    assert said(process) == {"listens": True}
    # WHEN
    line.hosts_updated(1)
    line.hosts_updated(2)
    # THEN
    assert said(process) == {"results": [1, 2], "ordered": True, "service": None}


def test_news_for_a_rank_without_horovods_elastic_is_no_harm(lab: Lab) -> None:
    """A rank that still imports hears nothing of hosts and of broken rings, and starts later."""
    # GIVEN
    line, process = lab.rank(RANK + "ring = Basics()\nring.init()\nsay(in_ring=True)\nsys.stdin.readline()\n")
    # WHEN
    line.hosts_updated(2)
    line.sever([lab.address(1)])
    line.start({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1", "PEERS": "[]"})
    # THEN
    assert said(process) == {"in_ring": True}


def test_broken_ring_loses_its_connections_and_nothing_else(lab: Lab) -> None:
    """
    Severed are those that were made when the ring was formed, wherever they lead, and those to its nodes.

    The rendezvous, which the next ring needs, connections elsewhere and what listens stay.
    """
    # GIVEN
    elsewhere, node, foreign = lab.peer(9), lab.peer(2), lab.peer(8)
    rendezvous = lab.peer(1, contract.RENDEZVOUS_PORT)
    line, process = lab.rank(
        RANK
        + f"""
before = connect([{elsewhere!r}])
listening = socket.create_server(("127.0.0.1", 0))
pair = socket.socketpair()
ring = Basics()
ring.init()
later = connect([{elsewhere!r}, {node!r}])
say(ready=True)
while state(later[-1]) == "open":
    pass
kinds = dict(ring=ring.connections, before=before, later=later, pair=pair)
say(**{{kind: [state(each) for each in connections] for kind, connections in kinds.items()}})
socket.create_connection(listening.getsockname()).close()
say(listens=True)
"""
    )
    peers = json.dumps([node, foreign, rendezvous])
    line.start({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "PEERS": peers})
    assert said(process) == {"ready": True}
    # WHEN
    line.sever([lab.address(1), lab.address(2)])
    # THEN
    assert said(process) == {
        "ring": ["closed", "closed", "open"],
        "before": ["open"],
        "later": ["open", "closed"],
        "pair": ["open", "open"],
    }
    assert said(process) == {"listens": True}


def test_ring_that_is_lost_while_it_forms_is_severed(lab: Lab) -> None:
    """A rank that connects to one that is gone does not wait for it until Gloo's timeout."""
    # GIVEN a rank that hears the word while it forms a ring, and then of a change of hosts
    line, process = lab.rank(
        RANK
        + """
from horovod.common.elastic import State, notification_manager

news = State(bcast_object=None, get_rank=lambda: 0)
notification_manager.register_listener(news)


class Forming(Basics):
    def form(self):
        super().form()
        say(forming=True)
        news._host_messages.get()
        say(connections=[state(each) for each in self.connections])


Forming().init()
"""
    )
    line.start({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "PEERS": json.dumps([lab.peer(2)])})
    assert said(process) == {"forming": True}
    # WHEN
    line.sever([lab.address(2)])
    line.hosts_updated(1)
    # THEN
    assert said(process) == {"connections": ["closed"]}


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_line_ends_with_the_rank(lab: Lab, end: str) -> None:
    """Whatever is said to a rank that has ended is no error, and neither is listening to it."""
    # GIVEN
    line, process = lab.rank(RANK + "Basics().init()\n" + ("" if end == "exit" else "sys.stdin.readline()\n"))
    assert state(line, STANDBY) == STANDBY
    # WHEN
    if end == "exit":
        line.start({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "PEERS": "[]"})
    else:
        process.kill()
    process.wait(SECONDS)
    # THEN
    assert state(line, IN_RING if end == "exit" else STANDBY) == (IN_RING if end == "exit" else STANDBY)
    line.start({})
    line.hosts_updated(1)
    line.sever([])
    line.poll()
    # WHEN
    line.close()
    # THEN
    line.poll()
    line.sever([])
    line.close()


def test_rank_notices_the_agents_end(lab: Lab) -> None:
    """A line that the agent closed ends the rank's listening, not the rank."""
    # GIVEN
    line, process = lab.rank(RANK + "say(there=True)\nagent._thread.join(30)\nsay(listens=agent._thread.is_alive())\n")
    assert said(process) == {"there": True}
    # WHEN
    line.close()
    # THEN
    assert said(process) == {"listens": False}


def test_ring_that_never_changes_has_no_line() -> None:
    """A rank of a static ring was given none."""
    assert AgentConnection.from_environment({}) is None
