"""
Instance metadata of one instance, version 2 only, as with `require_imdsv2`.

Sources: EC2 User Guide, "Access instance metadata for an EC2 instance" (tokens, statuses) and "Instance metadata
categories" (items). Items that are not emulated, such as listings, are answered with 404.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from horovod_local.instances.machine import LocalInstance

TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105 - a path, not a secret
ITEMS_PATH: Final = "/latest/meta-data/"
TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
LONGEST_TTL_SECONDS: Final = 21_600

INSTANCE_ACTION: Final = "spot/instance-action"
TERMINATION_TIME: Final = "spot/termination-time"
REBALANCE: Final = "events/recommendations/rebalance"

Answer = tuple[int, str]
"""HTTP status and text."""


class InstanceMetadata:
    """
    The metadata of one instance.

    Args:
        items: Text of each item, by its path below `/latest/meta-data/`.
    """

    def __init__(self, items: Mapping[str, str]) -> None:
        self._items = dict(items)
        self._tokens: dict[str, float] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, instance: LocalInstance, *, region: str) -> InstanceMetadata:
        """Make the metadata of *instance*."""
        return cls(
            {
                "instance-id": instance.instance_id,
                "instance-life-cycle": instance.market,
                "instance-type": instance.instance_type,
                "local-ipv4": instance.address,
                "placement/availability-zone": instance.zone,
                "placement/region": region,
            }
        )

    def recommend_rebalance(self) -> None:
        """Add a rebalance recommendation with the present time; an existing one stays unchanged."""
        with self._lock:
            self._items.setdefault(REBALANCE, json.dumps({"noticeTime": _text(time.time())}))

    def announce_termination(self, at: float) -> None:
        """Add an interruption notice: EC2 terminates the instance *at* this time, in epoch seconds."""
        with self._lock:
            self._items[INSTANCE_ACTION] = json.dumps({"action": "terminate", "time": _text(at)})
            self._items[TERMINATION_TIME] = _text(at)

    def expire_tokens(self) -> None:
        """Expire every session token."""
        with self._lock:
            self._tokens.clear()

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """
        Answer a request.

        Args:
            method: HTTP method.
            path: Path of the request, from `/latest` on.
            headers: Headers of the request; their names are case-insensitive.
        """
        sent = {name.lower(): value for name, value in headers.items()}
        if method == "PUT" and path == TOKEN_PATH:
            # A request through a proxy might come from outside the instance.
            return (403, "") if "x-forwarded-for" in sent else self._give_token(sent.get(TTL_HEADER.lower(), ""))
        if method != "GET":
            return 405, ""
        with self._lock:
            if time.monotonic() >= self._tokens.get(sent.get(TOKEN_HEADER.lower(), ""), 0):
                return 401, ""
            item = self._items.get(path.removeprefix(ITEMS_PATH)) if path.startswith(ITEMS_PATH) else None
        return (404, "") if item is None else (200, item)

    def _give_token(self, ttl: str) -> Answer:
        if not ttl.isascii() or not ttl.isdigit() or not 1 <= int(ttl) <= LONGEST_TTL_SECONDS:
            return 400, ""
        token = secrets.token_urlsafe()
        with self._lock:
            self._tokens[token] = time.monotonic() + int(ttl)
        return 200, token


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
