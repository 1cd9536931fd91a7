"""Nodes of an elastic ring, played by the test on real channels."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

from horovod_node import contract
from horovod_node.elastic.signed_channel import ChannelClosedError, Message, connect
from horovod_node.node.failure import Failure

BEAT_SECONDS = 0.1


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
