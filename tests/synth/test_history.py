"""The events in a run's history are counted: Step Functions ends an execution at 25,000."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cdk_horovod.workflow.emptying import HOLD_AGAIN_SECONDS, LATE_PAUSE_SECONDS, SOON, ZEROS
from cdk_horovod.workflow.receipt_math import MOST_PAGES
from cdk_horovod.workflow.run_timeouts import EVENTS_OF_THE_QUEUE, LOOKS, MOST_EVENTS, STARTS
from horovod_node import contract
from support import asl

pytestmark = pytest.mark.synth

START = ("Hold the fleet to start", "Requested already?", "Suspend rebalancing", "Start nodes", "Wait for the ring")
NOT_FORMED = ("Look for the leader", "Start again?", "See what is there", "Nodes on the way?", "Find out why")
LOOK = ("Wait for the nodes to go", "Look for launches", "Confirm that nothing runs", "Anything running?")
HOLD = ("Hold the fleet", "Terminate")
RESTART = ("Train", "Start again?", "Begin the next attempt", "Leader to replace?", "Replace the leader")
EVENTS_OF_A_PAGE = 7
"""Of the nodes that a receipt reads: a task and a choice."""
POLL_SECONDS = 15
"""Between two looks at first: the construct's `poll_interval`."""


def events(states: Mapping[str, asl.State], names: Sequence[str]) -> int:
    """Count the events of *names*, one after the other; fails where the graph has no such way."""
    ways = {(edge.source, edge.target) for edge in asl.edges(states)}
    for way in itertools.pairwise(names):
        assert way in ways
    # A task is entered, scheduled, started, succeeds and is left; one with a token is also submitted.
    of_kind = {"Task": 5, "Choice": 2, "Pass": 2, "Wait": 2}
    return sum(of_kind[states[name]["Type"]] + str(states[name].get("Resource")).endswith("Token") for name in names)


def emptied(states: Mapping[str, asl.State], *, minutes: int) -> int:
    """Count the events of an emptying whose nodes take *minutes* to go."""
    soon = SOON * POLL_SECONDS
    looks = SOON + max(0, minutes * 60 - soon) // LATE_PAUSE_SECONDS + ZEROS
    holds = 1 + minutes * 60 // HOLD_AGAIN_SECONDS
    return looks * events(states, LOOK) + holds * events(states, HOLD)


def test_history_has_room_for_every_start(definition: Mapping[str, Any]) -> None:
    """A run that queues and restarts as much as it may, with slow instances, stays below the limit."""
    # GIVEN
    states = definition["States"]
    # WHEN each start is one that finds nothing and whose nodes take ten minutes to go
    vain = events(states, (*START, *NOT_FORMED, "Another attempt?", "Hold the fleet")) + emptied(states, minutes=10)
    # AND each restart is one whose leader is replaced
    lost = events(states, (*START, *RESTART))
    # AND nodes that are on the way are looked at as often as they may be
    waited = events(states, (*START[1:2], "Wait for the ring", *NOT_FORMED[:4], *START[:1]))
    # THEN
    assert lost < vain < 340
    assert contract.MOST_RESTARTS < STARTS
    run = STARTS * vain + LOOKS * waited + emptied(states, minutes=60) + MOST_PAGES * EVENTS_OF_A_PAGE
    assert EVENTS_OF_THE_QUEUE + run + 500 < MOST_EVENTS
