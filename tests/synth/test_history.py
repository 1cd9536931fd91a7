"""The events in a run's history are counted: Step Functions ends an execution at 25,000."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.workflow.emptying import HOLD_AGAIN_SECONDS, LATE_PAUSE_SECONDS, SOON, ZEROS
from cdk_horovod.workflow.receipt_math import MOST_PAGES
from cdk_horovod.workflow.run_timeouts import EVENTS_OF_AN_ENGINE, EVENTS_OF_THE_QUEUE, LOOKS, MOST_EVENTS, STARTS
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
    return sum(events_of(states[name]) for name in names)


def events_of(state: asl.State) -> int:
    """
    Count the events of one state; of a map, those of one iteration, and of a branch, those of its states but one.

    A task is entered, scheduled, started, succeeds and is left; one with a token is also submitted. Maps, their
    iterations and Parallels are started and succeed. A branch that lists has a state for further pages, which is not
    entered if there is one page.
    """
    if state["Type"] in ("Map", "Parallel"):
        (inner,) = asl.inside(state)
        kinds = [each for name, each in inner["States"].items() if not name.startswith("List older")]
        return 4 + 2 * (state["Type"] == "Map") + sum(map(events_of, kinds))
    return {"Task": 5}.get(state["Type"], 2) + str(state.get("Resource")).endswith("Token")


def emptied(
    states: Mapping[str, asl.State], *, minutes: int, look: Sequence[str] = LOOK, hold: Sequence[str] = HOLD
) -> int:
    """Count the events of an emptying whose nodes take *minutes* to go."""
    soon = SOON * POLL_SECONDS
    looks = SOON + max(0, minutes * 60 - soon) // LATE_PAUSE_SECONDS + ZEROS
    holds = 1 + minutes * 60 // HOLD_AGAIN_SECONDS
    return looks * events(states, look) + holds * events(states, hold)


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


@pytest.mark.parametrize("engine", ["sagemaker"], indirect=True)
def test_history_has_room_for_every_job(definition: Mapping[str, Any]) -> None:
    """So does a run on SageMaker, whose stopped jobs have two minutes to end; one list of jobs is one page."""
    # GIVEN
    states = definition["States"]
    look = ("Wait for the nodes to go", "Confirm that nothing runs", "Anything running?")
    hold = ("Hold the fleet", "Look for jobs to stop", "Terminate")
    start = ("Hold the fleet to start", "Requested already?", "Start nodes", "Wait for the ring")
    # WHEN each start finds nothing, and its job takes four minutes to end
    vain = events(states, (*start, *NOT_FORMED, "Another attempt?", "Hold the fleet"))
    vain += emptied(states, minutes=4, look=look, hold=hold)
    waited = events(states, (start[1], "Wait for the ring", *NOT_FORMED[:4], start[0]))
    # AND the bill of every job is read
    bill = events(states, ("Look for jobs of the run", "Read the bills")) * STARTS
    # THEN
    run = STARTS * vain + LOOKS * waited + emptied(states, minutes=60, look=look, hold=hold) + bill
    assert EVENTS_OF_THE_QUEUE + run + MOST_PAGES * EVENTS_OF_A_PAGE + 500 < MOST_EVENTS


def test_history_has_room_for_three_engines(three_engines: Mapping[str, Any]) -> None:
    """A run that may get nodes from three engines has room for the choices of each step, and for two ways on."""
    # GIVEN a fleet on ECS, the engine with the most states, and the other two
    states, engine = by_layer(three_engines)["run"]["States"], "ECS"

    def of(*names: str) -> tuple[str, ...]:
        """Put the choice before each step that an engine has, and the engine's name before its states."""
        named = [f"{engine}: {name}" if f"{engine}: {name}" in states else name for name in names]
        choices = {edge.target: edge.source for edge in asl.edges(states) if edge.source.startswith("Who ")}
        pairs = [(choices[name], name) if name.startswith(engine) and name in choices else (name,) for name in named]
        return tuple(itertools.chain.from_iterable(pairs))

    start = of("Hold the fleet to start", "Requested already?", "Choose the tasks", *START[2:])
    not_formed = of(*NOT_FORMED, "Ask ECS")
    look, hold = of(*LOOK), of(*HOLD)
    # WHEN each start finds nothing and its nodes take ten minutes to go
    vain = events(states, (*start, *not_formed, "Another attempt?", "Hold the fleet"))
    vain += emptied(states, minutes=10, look=look, hold=hold)
    waited = events(states, (start[1], "Wait for the ring", *not_formed[:-3], start[0]))
    # AND twice the run goes on to another engine: it empties, leaves, queues, reserves, prices and tags
    on = sum(events_of(state) for name, state in states.items() if not name.startswith("EC2"))
    # THEN
    run = STARTS * vain + LOOKS * waited + emptied(states, minutes=60, look=look, hold=hold) + 2 * on
    queue = EVENTS_OF_THE_QUEUE - 2 * EVENTS_OF_AN_ENGINE
    assert queue + run + MOST_PAGES * EVENTS_OF_A_PAGE + 500 < MOST_EVENTS
