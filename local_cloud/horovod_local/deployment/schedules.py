"""
Fires the rules of EventBridge that have a schedule: `rate(…)`, first one period after a rule is there and enabled.

A rule that is disabled does not fire; one that is enabled again, or changed, begins a new period. `cron(…)` is accepted
and never comes.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

POLL_SECONDS: Final = 0.1
UNITS: Final = {"minute": 60, "hour": 3600, "day": 86400}

_RATE: Final = re.compile(r"rate\((\d+) (minute|hour|day)s?\)")

_log = logging.getLogger(__name__)


def period_seconds(expression: str | None) -> float | None:
    """Read how often a schedule *expression* fires; None when it is no rate."""
    rate = _RATE.fullmatch(expression or "")
    return int(rate[1]) * UNITS[rate[2]] if rate else None


@dataclass(kw_only=True)
class _Due:
    """When a rule fires next, and the expression that says so."""

    expression: str
    at: float


class Schedules(threading.Thread):
    """
    Fires scheduled rules until `stop` is called.

    Args:
        speed: How many times faster than the clock.
    """

    def __init__(self, *, speed: float) -> None:
        super().__init__(name="schedules", daemon=True)
        self._speed = speed
        self._due: dict[str, _Due] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            try:
                self._step(now=time.monotonic())
            except Exception:
                # A rule that cannot be acted must not end all the others.
                _log.exception("firing scheduled rules failed; trying again")

    def stop(self) -> None:
        """Fire nothing any more."""
        self._stopping.set()
        self.join()

    def _step(self, *, now: float) -> None:
        enabled = {rule.arn: rule for rule in _rules() if rule.state != "DISABLED"}
        self._due = {arn: due for arn, due in self._due.items() if arn in enabled}
        for arn, rule in enabled.items():
            period = period_seconds(rule.scheduled_expression)
            if period is None:
                continue
            due = self._due.get(arn)
            if due is None or due.expression != rule.scheduled_expression:
                self._due[arn] = _Due(expression=rule.scheduled_expression, at=now + period / self._speed)
            elif now >= due.at:
                due.at = now + period / self._speed
                rule.send_to_targets(_event(rule))


def _rules() -> Iterator[Any]:
    from moto.events.models import events_backends

    for regions in list(events_backends.values()):
        for backend in list(regions.values()):
            for bus in list(backend.event_buses.values()):
                yield from list(bus.rules.values())


def _event(rule: Any) -> dict[str, Any]:
    """Make the event of a schedule, as the EventBridge User Guide shows it ("Scheduled event")."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": rule.account_id,
        # moto's own targets write it out as text.
        "time": time.time(),
        "region": rule.region_name,
        "resources": [rule.arn],
        "detail": {},
    }
