"""What a case of the fault matrix consists of: a fault, what must become of the run, and within which time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from horovod_client import Run
from horovod_local import ApiFault
from support.faults.lab import HEARTBEAT, LAUNCH, LEASE, REAPER, STALL, Lab
from support.faults.phases import Phase

SUCCESS = "succeeded"
"""In the place of an error: the run ends with its model."""
OUTAGE, STUBBORN = 12, 6
"""Seconds for which the terminate call fails, and for which an instance ignores its termination."""
SLACK = 45
"""Seconds for a loaded machine, beside the bound."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """
    How long it may take until nothing runs any more.

    Args:
        formula: The bound as users read it, made of the construct's timeouts.
        seconds: The same, with the lab's timeouts.
    """

    formula: str
    seconds: float


AT_ONCE = Bound(formula="at once", seconds=0)
BY_EVENT = Bound(formula="event", seconds=2)
BY_HEARTBEAT = Bound(formula="heartbeat", seconds=HEARTBEAT)
WORDS = 6 * min(5, HEARTBEAT / 4, STALL / 4)
"""How long the leader waits for the other nodes' words before it says what went wrong (horovod_node.ring.diagnosis)."""
BY_SILENCE = Bound(formula="3 heartbeats + 30 s", seconds=3 * HEARTBEAT + WORDS)
BY_LAUNCH = Bound(formula="launch_timeout", seconds=LAUNCH)
BY_LEASE = Bound(formula="lease_timeout + heartbeat", seconds=LEASE + HEARTBEAT)
BY_REAPER = Bound(formula="2 reaper_intervals", seconds=2 * REAPER)
BY_OUTAGE = Bound(formula="outage + pauses", seconds=OUTAGE + 14)
BY_STUBBORNNESS = Bound(formula="its own delay", seconds=STUBBORN)
BY_RUN = Bound(formula="end of the run", seconds=8)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """
    What must become of the run.

    Args:
        outcomes: Errors that it may end with, or `SUCCESS`; several where a race decides, and each is right.
        bound: How long the fleet may take to be empty.
    """

    outcomes: tuple[str, ...]
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class FaultCase:
    """
    A fault, and what must become of a run to which it happens.

    Args:
        name: As the table calls it.
        act: Makes it happen to a run. Faults that stay in force are ended by `Lab.heal`.
        expect: Says what must follow in a phase; None where the fault cannot happen.
        ends_by_itself: Whether the fault shows only when the training ends, which must then be soon. Default: no.
        before: A context in which the run starts. Default: nothing is different.
    """

    name: str
    act: Callable[[Lab, Run], None]
    expect: Callable[[Phase], Expectation | None]
    ends_by_itself: bool = False
    before: Callable[[Lab], AbstractContextManager[None]] = lambda _lab: nullcontext()


def release(lab: Lab, *failing: ApiFault) -> None:
    """Let what was held go on, under the given faults only."""
    lab.put(failing=failing, launch_delay_seconds=0.0)
