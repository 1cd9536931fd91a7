"""Which nodes an attempt has, and which of them have gone quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from horovod_node.attempt.node_attempt import NodeAttempt
from horovod_node.ledger.ledger import NodeItem
from horovod_node.node.errors import LedgerUnreachableError


class LastSeen:
    """
    Measures for how long each node's `seen_at` has not changed.

    The time is taken from the observer's clock. Values of `seen_at` are only compared with each other, so the nodes'
    clocks need not agree.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}

    def see(self, nodes: Iterable[NodeItem], *, now: float) -> None:
        """Record the nodes' items as read at *now*, in seconds of a monotonic clock."""
        for node in nodes:
            before = self._seen.get(node.id)
            if before is None or before[0] != node.seen_at:
                self._seen[node.id] = (node.seen_at, now)

    def seconds(self, node: str, *, now: float) -> float:
        """Return for how long *node* has been quiet; 0 if it was never seen."""
        return now - self._seen[node][1] if node in self._seen else 0.0


class AttemptNodes:
    """
    The nodes of an attempt, as its leader last read them.

    Args:
        work: The node's part in the attempt.
    """

    def __init__(self, work: NodeAttempt) -> None:
        self._lease = work.lease
        self._ledger = work.ledger.with_patience(0)
        self._silence = LastSeen()
        self._read_at = time.monotonic()
        self.items: Sequence[NodeItem] = ()
        """One item for each node that has joined."""

    def read(self) -> bool:
        """Read the nodes' items; return `False`, with *items* unchanged, if the ledger is unreachable."""
        try:
            self.items = self._ledger.nodes(self._lease)
        except LedgerUnreachableError:
            return False
        self._read_at = time.monotonic()
        self._silence.see(self.items, now=self._read_at)
        return True

    def quiet_seconds(self, node: str) -> float:
        """Return for how long *node* was quiet at the last successful read: an outage of the ledger does not count."""
        return self._silence.seconds(node, now=self._read_at)
