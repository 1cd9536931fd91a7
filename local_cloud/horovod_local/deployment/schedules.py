"""
Fires EventBridge rules that have a schedule `rate(…)`, first one period after the rule was created or enabled.

A disabled rule does not fire. A rule that is enabled again, or whose schedule changes, begins a new period. `cron(…)`
is accepted and never fires.
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
    """Return the period of a schedule *expression* in seconds; None if it is not a rate."""
    rate = _RATE.fullmatch(expression or "")
    return int(rate[1]) * UNITS[rate[2]] if rate else None


@dataclass(kw_only=True)
class _Due:
    """When a rule fires next, and the schedule expression from which that follows."""

    expression: str
    at: float


class Schedules(threading.Thread):
    """
    Fires scheduled rules until `stop` is called.

    Args:
        speed: Factor by which schedules run faster than real time.
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
                # One failing rule must not end all the others.
                _log.exception("firing scheduled rules failed; trying again")

    def stop(self) -> None:
        """Stop firing rules."""
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
    """Make the event of a schedule, as in the EventBridge User Guide, "Scheduled event"."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": rule.account_id,
        # moto's own targets format the number as text.
        "time": time.time(),
        "region": rule.region_name,
        "resources": [rule.arn],
        "detail": {},
    }
