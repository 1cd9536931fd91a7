"""Which nodes have gone quiet."""

from __future__ import annotations

from collections.abc import Iterable

from horovod_node.ledger.ledger import NodeItem


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
