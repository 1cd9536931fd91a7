"""
EC2's notices to a Spot Instance that it will take it away.

There are two. An *instance action* is final: EC2 terminates the instance at the time that it names, about two minutes
after the notice. A *rebalance recommendation* says that this has become more likely than usual; it may come long before
an instance action, at the same time, or without one. So a node leaves its ring on an instance action alone. On a
recommendation it would give up its GPUs for certain, for a loss that may never come and costs no more than one commit
when it does, and its group replaces only what is gone. The recommendation is recorded, for people.

Sources: Spot User Guide, "Spot Instance interruption notices", which recommends to look every 5 seconds, and "EC2
instance rebalance recommendations".
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from horovod_node import contract
from horovod_node.node.identity import Node
from horovod_node.node.instance_metadata import DEFAULT_ENDPOINT, InstanceMetadata

POLL_SECONDS: Final = 5.0
"""Between two looks, as AWS recommends; each is two requests to a service of the instance's own host."""

_ACTION_ITEM: Final = "spot/instance-action"
_REBALANCE_ITEM: Final = "events/recommendations/rebalance"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """
    A notice.

    Args:
        kind: One of the contract's `INTERRUPTIONS`.
        at: When this node heard of it, epoch seconds.
        ends_at: When EC2 takes the instance away, epoch seconds; `None` when it does not say.
    """

    kind: str
    at: float
    ends_at: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether the node is sure to be taken away."""
        return self.kind == contract.INTERRUPTION_NOTICE


class InterruptionWatch:
    """
    Looks for notices in a thread of its own, which ends with the process, and after the notice that is final.

    Whatever the service does is no reason for the node to fail: while it is away there is nothing new, and that is all.

    Args:
        metadata: Instance metadata, used by the watch alone. `None`: there is nothing to watch, and never a notice.
        poll_seconds: Time between two looks.
    """

    def __init__(self, metadata: InstanceMetadata | None, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._metadata = metadata
        self._poll_seconds = poll_seconds
        self._interruption: Interruption | None = None
        self._stopping = threading.Event()

    @classmethod
    def of(cls, node: Node, environment: Mapping[str, str]) -> InterruptionWatch:
        """
        Make the watch of *node*: of a Spot Instance, on EC2 or where *environment* says that there is metadata.

        Args:
            node: This node.
            environment: The process's environment variables.
        """
        endpoint = environment.get(contract.ENV_METADATA_ENDPOINT) or (
            DEFAULT_ENDPOINT if node.engine == contract.ENGINE_EC2 else None
        )
        if node.market != contract.SPOT or endpoint is None:
            return cls(None)
        # One attempt: the next look comes soon enough, and should not wait for this one.
        return cls(InstanceMetadata(endpoint, attempts=1))

    @property
    def interruption(self) -> Interruption | None:
        """
        The notice that counts, if there is one: the first, unless it is a recommendation that an instance action
        followed.
        """
        return self._interruption

    def start(self) -> None:
        """Begin to look."""
        if self._metadata is not None:
            threading.Thread(target=self._watch, args=(self._metadata,), name="interruption", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def _watch(self, metadata: InstanceMetadata) -> None:
        away = False
        while not (self._interruption and self._interruption.is_final):
            try:
                self._look(metadata)
            except Exception as error:
                # Said once, for an outage of hours would fill the log.
                if not away:
                    _log.warning("instance metadata failed, looking for interruptions again and again: %s", error)
                away = True
            else:
                away = False
            if self._stopping.wait(self._poll_seconds):
                return

    def _look(self, metadata: InstanceMetadata) -> None:
        action = metadata.find(_ACTION_ITEM)
        if action is not None:
            self._hear(Interruption(kind=contract.INTERRUPTION_NOTICE, at=time.time(), ends_at=_end(action)))
        elif self._interruption is None and metadata.find(_REBALANCE_ITEM) is not None:
            self._hear(Interruption(kind=contract.INTERRUPTION_REBALANCE, at=time.time()))

    def _hear(self, interruption: Interruption) -> None:
        _log.warning("EC2 may take this node away: %s", interruption.kind)
        self._interruption = interruption


def _end(action: str) -> float | None:
    """Read the time out of an instance action; what cannot be read is a notice all the same."""
    try:
        return datetime.fromisoformat(json.loads(action)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None
