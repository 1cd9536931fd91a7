"""An elastic ring whose nodes and ranks the test plays: real control server, real driver, real rendezvous."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

from horovod_node import contract
from horovod_node.elastic.control_server import ControlServer
from horovod_node.elastic.driver import RingDriver, RingRendezvous
from horovod_node.elastic.signed_channel import KEY_BYTES, ChannelClosedError, Message, connect
from horovod_node.node.failure import Failure
from support.node.loopback import new_addresses
from support.waiting import SECONDS, eventually

BEAT_SECONDS = 0.1
KEY = bytes(range(KEY_BYTES))


class PlayedNode:
    """
    A node's end of the connection; keeps what it is told.

    Args:
        address: Its own.
        leader: The leader's address.
        key: The ring's.
        gpus: Ranks that fit on it.
        name: What it is called. Default: after its address.
    """

    def __init__(self, address: str, *, leader: str, key: bytes, gpus: int = 1, name: str | None = None) -> None:
        self.address = address
        self.name = name or f"node-{address.rsplit('.', 1)[1]}"
        self.gpus = gpus
        self.generation = 0
        self.heard: list[Message] = []
        self.end: ChannelClosedError | None = None
        """Why the connection has ended, once it has."""
        self._quiet = threading.Event()
        self._channel = connect(leader, contract.CHANNEL_PORT, key=key, source=address)
        self._begin(self._listen)

    def join(self) -> PlayedNode:
        """Greet the leader, and give signs of life from then on: what comes before a greeting ends the connection."""
        self.say(hello={"node": self.name, "address": self.address, "gpus": self.gpus})
        self._begin(self._beat)
        return self

    def offer(self) -> PlayedNode:
        """Offer a new set of ranks."""
        self.generation += 1
        self.say(ready=self.generation)
        return self

    def lose(self, place: int, code: int = -9) -> None:
        """Tell the end of a rank."""
        self.say(exit=[self.generation, place, code])

    def begin_anew(self, place: int = 0) -> None:
        """Lose a rank, end the others and offer new ones, as a node does."""
        self.lose(place)
        self.say(broken=self.generation, why="a rank was killed")
        self.offer()

    def leave(self) -> None:
        """Leave the ring in order, and stay connected."""
        self.say(left=True)

    def fail(self, summary: str) -> None:
        """Tell of a failure that no other ring could mend."""
        failure = Failure(
            error=contract.ERROR_TRAINING_FAILED, origin="script", summary=summary, node=self.name, at=1.0
        )
        self.say(failure=failure.to_json())

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._channel.send(message)

    def told(self, word: str) -> list[Any]:
        """List what the leader said under *word*."""
        return [message[word] for message in list(self.heard) if word in message]

    @property
    def started(self) -> dict[int, dict[str, str]]:
        """Give the environments of this generation's ranks that were started, by their places."""
        return {
            place: environment for generation, place, environment in self.told("start") if generation == self.generation
        }

    def fall_silent(self) -> None:
        """Say nothing any more, and leave the connection as it is."""
        self._quiet.set()

    def close(self) -> None:
        """End the connection."""
        self._quiet.set()
        self._channel.close()

    def _begin(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name=f"played {self.name}", daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if message:
                    self.heard.append(message)
        except ChannelClosedError as reason:
            self.end = reason

    def _beat(self) -> None:
        with contextlib.suppress(ChannelClosedError):
            while not self._quiet.wait(BEAT_SECONDS):
                self.say()


Place = tuple[PlayedNode, int]


class DrivenRing:
    """
    A control server, a driver once it was made, and the nodes that are connected.

    Args:
        is_gone: Whether a node that is out of reach is known to be gone. Default: it is when it is in `gone`.
    """

    def __init__(self, *, is_gone: Callable[[str], bool] | None = None) -> None:
        self.address = new_addresses()
        self.gone: set[str] = set()
        self.notified: list[int] = []
        self.nodes: list[PlayedNode] = []
        self._is_gone = is_gone or self.gone.__contains__
        self._open = ExitStack()
        self.server = self._open.enter_context(closing(ControlServer(self.address(1), contract.CHANNEL_PORT, key=KEY)))
        self._ranks = ThreadPoolExecutor(32)
        self._open.callback(self._ranks.shutdown, cancel_futures=True)
        self._driver: RingDriver | None = None

    @property
    def driver(self) -> RingDriver:
        """The driver, which must have been made."""
        assert self._driver is not None
        return self._driver

    def node(self, number: int, *, gpus: int = 1) -> PlayedNode:
        """Connect a node that offers its ranks, and wait until the control server knows; number 1 is the leader's."""
        node = PlayedNode(self.address(number), leader=self.address(1), key=KEY, gpus=gpus).join().offer()
        self.nodes.append(self._open.enter_context(closing(node)))
        self.until_ready(node)
        return node

    def until_ready(self, node: PlayedNode) -> None:
        """Wait until the control server knows of the node's present offer."""

        def ready() -> bool:
            member = self.server.member(node.address)
            return member is not None and member.ready and member.generation == node.generation

        assert eventually(ready), f"{node.name} is not ready"

    def drive(self, *, gpus: int, min_gpus: int = 1, elastic_seconds: float = 60) -> RingDriver:
        """Make the driver."""
        self._driver = RingDriver(
            self.server,
            RingRendezvous(self.address(1), contract.RENDEZVOUS_PORT),
            leader=self.address(1),
            interface="lo",
            gpus=gpus,
            min_gpus=min_gpus,
            elastic_seconds=elastic_seconds,
            notify=self.notified.append,
            is_gone=self._is_gone,
        )
        self._open.callback(self._driver.stop)
        return self._driver

    def form(self, *nodes: int, gpus: int = 8, min_gpus: int = 1, elastic_seconds: float = 60) -> list[PlayedNode]:
        """Connect nodes of so many GPUs each, the leader's first, and form a ring of all that they have."""
        made = [self.node(number, gpus=size) for number, size in enumerate(nodes, start=1)]
        self.drive(gpus=gpus, min_gpus=min_gpus, elastic_seconds=elastic_seconds).begin(min(gpus, sum(nodes)))
        assert self.runs(*made), (self.driver.assigned(), self.driver.trouble)
        return made

    def runs(self, *nodes: PlayedNode) -> bool:
        """Wait until the ring is of these nodes, with all its ranks started in their present generations."""

        def complete() -> bool:
            assigned = self.driver.assigned()
            return set(assigned) == {node.address for node in nodes} and all(
                len(node.started) == assigned[node.address] for node in nodes
            )

        return eventually(complete)

    def ask(self, node: PlayedNode, place: int = 0) -> Future[list[int]]:
        """Ask as a rank that has left its ring, for its rank and size in the next: both -1 when it is in none."""
        return self._ranks.submit(self._ask, f"{node.address}:{place}")

    def get(self, path: str, *, method: str = "GET", body: bytes | None = None) -> tuple[int, bytes]:
        """Ask the rendezvous."""
        with closing(
            http.client.HTTPConnection(self.address(1), contract.RENDEZVOUS_PORT, timeout=SECONDS)
        ) as connection:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()

    @property
    def waiting(self) -> int:
        """Ranks of the present ring that wait for the next one, as Horovod counts them."""
        return int(self.driver._worker_registry._barrier.n_waiting)

    def reset(self, *ranks: Place) -> list[list[int]]:
        """Let these ranks leave their ring at once, and give their ranks and sizes in the next."""
        asked = [self.ask(node, place) for node, place in ranks]
        return [answer.result(timeout=SECONDS) for answer in asked]

    def close(self) -> None:
        """End everything."""
        for node in self.nodes:
            node.close()
        self._open.close()

    def _ask(self, key: str) -> list[int]:
        status, body = self.get(f"/rank_and_size/{key}")
        assert status == 200, body
        return [int(number) for number in body.split(b",")][:2]
