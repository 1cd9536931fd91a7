"""
EC2's notices to a Spot Instance that it will be, or may be, interrupted.

There are two. An *instance action* is final: EC2 terminates the instance at the time that it names, about two minutes
after the notice. A *rebalance recommendation* says that an interruption has become more likely; it may come long before
an instance action, at the same time, or without one.

A node leaves its ring only on an instance action. If it left on a recommendation, it would give up its GPUs to avoid a
loss that may never come and costs at most one commit interval, and the Auto Scaling group would not replace it before
it is gone. The recommendation is only recorded.

Sources: Spot User Guide, "Spot Instance interruption notices", which recommends polling every 5 seconds, and "EC2
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
"""Time between two polls, as AWS recommends; a poll is one or two requests to a service on the instance's own host."""

_ACTION_ITEM: Final = "spot/instance-action"
_REBALANCE_ITEM: Final = "events/recommendations/rebalance"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """
    An interruption notice.

    Args:
        kind: One of the contract's `INTERRUPTIONS`.
        at: When this node received it, epoch seconds.
        ends_at: When EC2 interrupts the instance, epoch seconds; `None` if unknown.
    """

    kind: str
    at: float
    ends_at: float | None = None

    @property
    def is_final(self) -> bool:
        """Whether the instance is certain to be interrupted."""
        return self.kind == contract.INTERRUPTION_NOTICE


class InterruptionWatch:
    """
    Polls for notices in its own thread, which ends after a final notice, or with the process.

    A failure of the metadata service never fails the node: there is no notice while the service is unreachable.

    Args:
        metadata: Instance metadata, which nothing else may use. With `None` there is never a notice.
        poll_seconds: Time between two polls. Default: `POLL_SECONDS`.
    """

    def __init__(self, metadata: InstanceMetadata | None, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._metadata = metadata
        self._poll_seconds = poll_seconds
        self._interruption: Interruption | None = None
        self._stopping = threading.Event()

    @classmethod
    def of(cls, node: Node, environment: Mapping[str, str]) -> InterruptionWatch:
        """
        Create the watch of *node*. It polls only on EC2's Spot Instances, or where *environment* names an endpoint.

        Args:
            node: This node.
            environment: The process's environment variables.
        """
        endpoint = environment.get(contract.ENV_METADATA_ENDPOINT) or (
            DEFAULT_ENDPOINT if node.engine in contract.EC2_ENGINES else None
        )
        if node.market != contract.SPOT or endpoint is None:
            return cls(None)
        # A single attempt: the next poll comes soon anyway.
        return cls(InstanceMetadata(endpoint, attempts=1))

    @property
    def interruption(self) -> Interruption | None:
        """
        The notice in force, if any: the first one, unless it is a recommendation that an instance action followed.
        """
        return self._interruption

    def start(self) -> None:
        """Start polling."""
        if self._metadata is not None:
            threading.Thread(target=self._watch, args=(self._metadata,), name="interruption", daemon=True).start()

    def stop(self) -> None:
        """Stop polling."""
        self._stopping.set()

    def _watch(self, metadata: InstanceMetadata) -> None:
        away = False
        while not (self._interruption and self._interruption.is_final):
            try:
                self._look(metadata)
            except Exception as error:
                # Logged once per outage: one of hours would fill the log.
                if not away:
                    _log.warning("instance metadata failed, will keep polling for interruption notices: %s", error)
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
        _log.warning("EC2 may interrupt this node: %s", interruption.kind)
        self._interruption = interruption


def _end(action: str) -> float | None:
    """Read the time from an instance action; return `None` if it cannot be parsed, as the notice still counts."""
    try:
        return datetime.fromisoformat(json.loads(action)["time"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None
