"""The rendezvous, over HTTP."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

import horovod_node
from horovod_node.local_ranks.plan import RingHost, RingPlan
from horovod_node.ring import rendezvous
from horovod_node.ring.rendezvous import Rendezvous
from support.node.loopback import new_addresses
from support.synthesis import REPOSITORY
from support.waiting import SECONDS, eventually


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


def held(serving: Rendezvous) -> int:
    """Count the questions that wait for their answer."""
    return sum(connection.held for connection in list(serving._open.values()))


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
    """Gloo asks again until the key is there, or until its own time is over."""
    assert ask(served, "GET", "/global/7") == (404, b"")


def test_ranks_wait_for_each_other(plan: RingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that ask for what is not there yet are answered once it is, all of them, and need not ask again."""
    # GIVEN
    monkeypatch.setattr(rendezvous, "_HOLD_SECONDS", SECONDS)
    with closing(Rendezvous(plan.addresses[0], plan.port)) as serving, ThreadPoolExecutor(64) as ranks:
        asked = [ranks.submit(ask, plan, "GET", f"/global/{rank % 2}") for rank in range(64)]
        assert eventually(lambda: held(serving) == 64)
        # WHEN
        assert ask(plan, "PUT", "/global/1", b"at 1") == (200, b"")
        # THEN
        assert [each.result() for each in asked[1::2]] == [(200, b"at 1")] * 32
        # AND
        assert not any(each.done() for each in asked[0::2])
        ask(plan, "PUT", "/global/0", b"")
        assert [each.result() for each in asked[0::2]] == [(200, b"")] * 32


def test_a_new_ring_is_not_told_of_the_last(served: RingPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a rank of the last ring is not given one of the next."""
    # GIVEN
    monkeypatch.setattr(rendezvous, "_HOLD_SECONDS", 2.0)
    address = new_addresses()(1)
    place = replace(served, hosts=(replace(served.hosts[0], address=address), *served.hosts[1:]))
    with closing(Rendezvous(address, served.port)) as again, ThreadPoolExecutor(1) as ranks:
        again.init(served.slots())
        asked = ranks.submit(ask, place, "GET", "/global/0")
        assert eventually(lambda: held(again) == 1)
        # WHEN
        again.init(served.slots())
        ask(place, "PUT", "/global/0", b"new")
        # THEN
        assert asked.result() == (404, b"")
        assert ask(place, "GET", "/global/0") == (200, b"new")


@pytest.mark.parametrize("scope", ["global", "local_10.0.0.3", "cross_7"])
def test_scopes_end_when_all_have_left(served: RingPlan, scope: str) -> None:
    """Ranks that initialise Horovod again must not find the last time's addresses, whatever other scopes do."""
    # GIVEN
    size = 64 if scope == "global" else 8
    ask(served, "PUT", f"/{scope}/0", b"old")
    # WHEN
    for rank in range(size - 1):
        ask(served, "DELETE", f"/{scope}/{rank}")
    # THEN
    assert ask(served, "GET", f"/{scope}/0") == (200, b"old")
    # AND when another scope ends in between
    for rank in range(8):
        ask(served, "DELETE", f"/local_10.0.0.5/{rank}")
    ask(served, "DELETE", f"/{scope}/{size - 1}")
    assert ask(served, "GET", f"/{scope}/0") == (404, b"")


def test_large_values_arrive_whole(served: RingPlan) -> None:
    """What is larger than the kernel's buffers is taken and given in parts."""
    # GIVEN
    value = bytes(range(256)) * 4096
    # WHEN
    with ThreadPoolExecutor(16) as ranks:
        asked = [ranks.submit(ask, served, "GET", "/global/0") for _ in range(15)]
        ask(served, "PUT", "/global/0", value)
        # THEN
        assert [each.result() for each in asked] == [(200, value)] * 15


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("GET /global HTTP/1.1", 400), ("GET /a/b/c HTTP/1.1", 400), ("POST /global/0 HTTP/1.1", 405), ("x" * 20000, 431)],
)
def test_requests_that_no_rank_makes_are_refused(served: RingPlan, request_line: str, status: int) -> None:
    """Strangers are told so, and the ranks are served as before."""
    # GIVEN
    with closing(socket.create_connection((served.addresses[0], served.port), timeout=60)) as connection:
        # WHEN
        connection.sendall(request_line.encode() + (b"" if status == 431 else b"\r\n\r\n"))
        # THEN
        assert int(connection.makefile("rb").readline().split()[1]) == status
    assert ask(served, "PUT", "/global/0", b"x") == (200, b"")


def test_questions_that_wait_hold_nobody_up(served: RingPlan) -> None:
    """A question that something else answers may take its time, and one that it cannot answer is not there."""
    # GIVEN
    known = threading.Event()
    address = new_addresses()(1)
    answers = {"rank_and_size": lambda key: b"3" if key == "a:0" and known.wait(SECONDS) else None}
    place = replace(served, hosts=(replace(served.hosts[0], address=address),))
    with closing(Rendezvous(address, served.port, answers=answers)), ThreadPoolExecutor(1) as ranks:
        asked = ranks.submit(ask, place, "GET", "/rank_and_size/a:0")
        # WHEN
        assert ask(place, "GET", "/rank_and_size/b:0") == (404, b"")
        known.set()
        # THEN
        assert asked.result() == (200, b"3")


@pytest.mark.slow
@pytest.mark.ring
def test_large_rings_form() -> None:
    """With Horovod's own server, of 64 ranks that begin at once none finds all others in Gloo's 30 s."""
    # WHEN
    command = ["benchmarks/rendezvous.py", "--ranks", "64", "--runs", "1", "--servers", "cdk-horovod"]
    formed = subprocess.run(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(Path(horovod_node.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN
    assert "64 of 64 ranks" in formed.stdout, formed.stderr


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


def test_fails_when_the_port_is_taken(served: RingPlan) -> None:
    """Two rings never share a rendezvous."""
    with pytest.raises(OSError, match="Address already in use"):
        Rendezvous(served.addresses[0], served.port)
