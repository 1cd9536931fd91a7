"""The rendezvous, over HTTP."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from horovod.runner.http.http_server import RendezvousHTTPServer

from horovod_node.local_ranks.plan import RingHost, RingPlan, rendezvous
from horovod_node.ring.rendezvous import LISTEN_BACKLOG, Rendezvous, _Server
from node.addresses import new_addresses


@pytest.fixture
def plan() -> RingPlan:
    """A ring of 64 ranks whose leader is an address of this machine's own."""
    leader = RingHost(node="a", address=new_addresses()(1), slots=8)
    others = tuple(RingHost(node=f"n{number}", address=f"10.0.0.{number}", slots=8) for number in range(7))
    return RingPlan(hosts=(leader, *others), port=29400, gloo_timeout_seconds=120)


@pytest.fixture
def served(plan: RingPlan) -> Iterator[RingPlan]:
    with closing(Rendezvous(plan.addresses[0], plan.port)) as rendezvous:
        rendezvous.init(plan.slots())
        yield plan


def ask(plan: RingPlan, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(plan.addresses[0], plan.port, timeout=60)) as connection:
        connection.request(method, path, body=body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_ranks_find_each_other(served: RingPlan) -> None:
    """What each of 64 ranks stores at once, every other one can read."""
    # WHEN
    with ThreadPoolExecutor(64) as ranks:
        stored = list(ranks.map(lambda rank: ask(served, "PUT", f"/global/{rank}", b"at %d" % rank), range(64)))
        read = list(ranks.map(lambda rank: ask(served, "GET", f"/global/{63 - rank}"), range(64)))
    # THEN
    assert {status for status, _ in stored} == {200}
    assert read == [(200, b"at %d" % (63 - rank)) for rank in range(64)]


def test_missing_keys_are_missing(served: RingPlan) -> None:
    """Gloo asks again until the key is there."""
    assert ask(served, "GET", "/global/7") == (404, b"")


def test_only_the_leaders_address_is_served(served: RingPlan) -> None:
    """Other addresses of the machine have nothing on the port."""
    with (
        closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as elsewhere,
        pytest.raises(ConnectionRefusedError),
    ):
        elsewhere.request("GET", "/global/0")


def test_files_are_not_served(served: RingPlan) -> None:
    """The agent's files are nobody's."""
    assert ask(served, "HEAD", "/global/0")[0] == 405


def test_large_values_are_refused_before_they_are_sent(served: RingPlan) -> None:
    """The agent's memory is nobody's: the announced size alone is refused."""
    # GIVEN a client that announces more than any rank stores, and sends nothing yet
    with closing(http.client.HTTPConnection(served.addresses[0], served.port, timeout=60)) as connection:
        connection.putrequest("PUT", "/global/0")
        connection.putheader("Content-Length", str(1024**2 + 1))
        # WHEN
        connection.endheaders()
        # THEN
        assert connection.getresponse().status == 413


@pytest.mark.parametrize(
    ("lengths", "status"),
    [(["-1"], 411), ([], 411), (["1e3"], 411), (["+1"], 411), (["²"], 411), (["1", "1"], 411), (["9" * 5000], 413)],
)
def test_lengths_that_are_none_are_refused(served: RingPlan, lengths: list[str], status: int) -> None:
    """A length below zero would be read without end, and one of thousands of digits is no number for Python."""
    # GIVEN
    with closing(socket.create_connection((served.addresses[0], served.port), timeout=60)) as connection:
        headers = "".join(f"Content-Length: {length}\r\n" for length in lengths)
        # WHEN
        connection.sendall(f"PUT /global/0 HTTP/1.0\r\n{headers}\r\n".encode() + b"x" * 100)
        # THEN
        assert int(connection.makefile("rb").readline().split()[1]) == status


def test_slow_requests_end(served: RingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a byte now and then does not hold a thread of the leader for ever."""
    # GIVEN
    monkeypatch.setattr(rendezvous, "_CONNECTION_SECONDS", 1.0)
    with closing(socket.create_connection((served.addresses[0], served.port), timeout=60)) as connection:
        # WHEN
        connection.sendall(b"PUT /global/0 HTTP/1.0\r\nContent-Length: 1000\r\n\r\n")
        sent = 0
        with suppress(OSError):
            while sent < 999:  # the whole takes ten times as long as it may
                sent += connection.send(b"x")
                time.sleep(0.01)
        # THEN
        assert sent < 999
    # AND half a value is none
    assert ask(served, "GET", "/global/0") == (404, b"")


def test_backlog_is_ours() -> None:
    """Horovod's own server takes five waiting connections, with which rings of 64 ranks never form."""
    assert (RendezvousHTTPServer.request_queue_size, _Server.request_queue_size) == (5, LISTEN_BACKLOG)


def test_fails_when_the_port_is_taken(served: RingPlan) -> None:
    """Two rings never share a rendezvous."""
    with pytest.raises(OSError, match="Address already in use"):
        Rendezvous(served.addresses[0], served.port)
