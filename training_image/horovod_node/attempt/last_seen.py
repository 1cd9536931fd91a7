"""Which nodes an attempt has, and which of them have gone quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import NodeItem
from horovod_node.node.errors import LedgerUnreachableError


class LastSeen:
    """
    Measures how long each node's `seen_at` has stood still.

    By the observer's clock: what the other node's clock says is only compared with what it said before.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def see(self, nodes: Iterable[NodeItem], *, now: float) -> None:
        """Take the nodes' items as they are *now*, in seconds of any clock that never goes back."""
        for node in nodes:
            before = self._seen.get(node.id)
            if before is None or before[0] != node.seen_at:
                self._seen[node.id] = (node.seen_at, now)

    def seconds(self, node: str, *, now: float) -> float:
        """Tell how long *node* has been quiet; 0 for one that was never seen."""
        return now - self._seen[node][1] if node in self._seen else 0.0


class AttemptNodes:
    """
    The nodes of an attempt, as its leader read them last.

    Args:
        work: What the node works on.
    """

    def __init__(self, work: NodeAttempt) -> None:
        self._lease = work.lease
        self._ledger = work.ledger.with_patience(0)
        self._silence = LastSeen()
        self._read_at = time.monotonic()
        self.items: Sequence[NodeItem] = ()
        """One for each node that has joined."""

    def read(self) -> bool:
        """Read the nodes' items; `False` when the ledger is away, and *items* are as they were."""
        try:
            self.items = self._ledger.nodes(self._lease)
        except LedgerUnreachableError:
            return False
        self._read_at = time.monotonic()
        self._silence.see(self.items, now=self._read_at)
        return True

    def quiet_seconds(self, node: str) -> float:
        """Tell how long *node* had been quiet when the ledger was read last: while it is away, nobody is heard."""
        return self._silence.seconds(node, now=self._read_at)
