"""The states that a run has on ECS: its services' task definitions, what ECS says, and instances that were lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.workflow.emptying import HOLD_AGAIN_SECONDS, LATE_PAUSE_SECONDS, SOON
from cdk_horovod.workflow.receipt_math import MOST_PAGES
from cdk_horovod.workflow.run_timeouts import EVENTS_OF_THE_QUEUE, MOST_EVENTS, STARTS
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import contract
from support import asl
from support.asl import bare, by_reference

pytestmark = [pytest.mark.synth, pytest.mark.parametrize("engine", ["ecs"], indirect=True)]

SINCE = 1_790_000_000
BEFORE, LATER = "2026-09-21T13:00:00Z", "2026-09-21T14:30:00.123Z"
SERVICES = [{"service": "arn:service/one", "task": "arn:task-definition/node-1:7"}]
NO_SPACE = "(service Service1) was unable to place a task because no container instance met all of its requirements."
NO_IMAGE = "CannotPullContainerError: Error response from daemon: manifest for training:1 not found"
EC2_EVENTS = 330
"""Most events of a start that finds nothing on EC2, which `test_history.py` counts."""


def same(expression: str, variables: Mapping[str, Any]) -> Any:
    """Evaluate an expression; the local cloud's answer must be the reference's."""
    (found,) = by_reference([variables], bare(expression))
    assert evaluate(bare(expression), variables) == found
    return found


def inner(definition: Mapping[str, Any], name: str) -> Mapping[str, asl.State]:
    """Give the states of a map."""
    states: Mapping[str, asl.State] = definition["States"][name]["ItemProcessor"]["States"]
    return states


def test_task_definitions_are_chosen_before_the_first_nodes(definition: Mapping[str, Any]) -> None:
    """A run chooses its revision once, before any node starts; later starts of the run call nothing."""
    # GIVEN
    state = definition["States"]["Choose the tasks"]
    fleet = {"rest": {"services": SERVICES}}
    # THEN
    assert same(state["Items"], {"fleet": fleet, "times": {}}) == SERVICES
    assert same(state["Items"], {"fleet": fleet, "times": {"asked_at": LATER}}) in ([], None)
    assert "asked_at" in str(definition["States"]["Start nodes"]["Assign"]["times"])
    # AND an error of it is the run's
    assert state["Catch"][0]["Assign"]["outcome"]["error"] == "{% $states.errorOutput.Error %}"
    # AND every way to the nodes leads through it
    assert "Start nodes" not in asl.reachable(
        definition["States"], start=definition["StartAt"], avoiding=frozenset({"Choose the tasks"})
    )


def test_services_are_the_templates_own(definition: Mapping[str, Any], template: Mapping[str, Any]) -> None:
    """A run's fleet names each service, and the revision that was deployed with this state machine."""
    # WHEN
    (fleet,) = definition["States"]["Check the request"]["Assign"]["fleets"]
    # THEN
    named = {
        kind: [f"${{{name}}}" for name, resource in template["Resources"].items() if resource["Type"] == kind]
        for kind in ("AWS::ECS::Service", "AWS::ECS::TaskDefinition")
    }
    assert [each["service"] for each in fleet["rest"]["services"]] == named["AWS::ECS::Service"]
    assert [each["task"] for each in fleet["rest"]["services"]] == named["AWS::ECS::TaskDefinition"]


def said(
    definition: Mapping[str, Any],
    *,
    launches: list[str],
    step: str = "fail",
    events: list[tuple[str, str]],
    tasks: list[dict[str, Any]],
) -> dict[str, Any]:
    """Evaluate *Find out why* and *Ask ECS* one after the other, for one service; answers `$search`."""
    states = inner(definition, "Ask ECS")
    attempt = {"words": "Spot in any zone", "market": "spot", "base": 0, "families": ["g"], "empties": False}
    variables: dict[str, Any] = {
        "search": {
            "number": 1,
            "attempt": attempt,
            "since": SINCE,
            "starts": 1,
            "again": 0,
            "refusal": "",
            "log": [],
            "step": step,
        },
        "fleet": {"plan": [attempt, attempt], "rest": {"unit": 1, "services": SERVICES}},
        "request": {contract.GPUS: 4, contract.MIN_GPUS: 4},
        "attempt": 1,
        "lost_attempts": [],
    }

    def answer(result: Any, expression: str, *, given: Any = None) -> Any:
        return same(expression, {**variables, "states": {"result": result, "input": given or {}}})

    activities = [{"StatusCode": "Failed", "StatusMessage": word, "StartTime": LATER} for word in launches]
    variables["launch_errors"] = answer(
        {"Activities": activities}, definition["States"]["Find out why"]["Assign"]["launch_errors"]
    )
    asked = same(definition["States"]["Ask ECS"]["Items"], variables)
    assert asked == (SERVICES if step == "fail" else [])
    variables["service_events"] = answer(
        {"Services": [{"Events": [{"CreatedAt": at, "Message": message} for at, message in events]}]},
        states["Read the service"]["Assign"]["service_events"],
    )
    given = {"reasons": answer({"Tasks": tasks}, states["Read why they stopped"]["Output"]["reasons"])} if tasks else {}
    words = [{"words": answer(None, states["Keep what ECS said"]["Output"]["words"], given=given)} for _ in asked]
    search: dict[str, Any] = answer(words, definition["States"]["Ask ECS"]["Assign"]["search"])
    return search


def stopped(reason: str, *, code: str = "TaskFailedToStart", at: str = LATER, container: str = "") -> dict[str, Any]:
    """Describe a task that stopped."""
    containers = [{"Reason": container}] if container else [{}]
    return {"StopCode": code, "StoppedAt": at, "StoppedReason": reason, "Containers": containers}


def test_words_of_ecs_say_why_instances_formed_no_ring(definition: Mapping[str, Any]) -> None:
    """Instances that were all launched, and got no task or no image, end the run with the words of ECS."""
    # WHEN
    search = said(
        definition,
        launches=["We currently do not have sufficient g5.xlarge capacity"],
        events=[(LATER, NO_SPACE), (LATER, "(service Service1) has reached a steady state."), (BEFORE, "unable to go")],
        tasks=[
            stopped("Task failed to start", container=NO_IMAGE),
            stopped("Host EC2 (instance i-1) terminated.", code="TerminationNotice"),
            stopped("Essential container in task exited", code="EssentialContainerExited", at=BEFORE),
        ],
    )
    # THEN
    assert search["log"][0]["said"] == (
        f"We currently do not have sufficient g5.xlarge capacity ECS: {NO_SPACE} ECS: Task failed to start "
        f"ECS: {NO_IMAGE}"
    )
    assert (search["log"][0]["outcome"], search["step"]) == ("not formed", "fail")
    assert ": AWS said: We currently do not have" in search["cause"]


def test_silence_is_told_as_silence(definition: Mapping[str, Any]) -> None:
    """Without a word of either, the logs of the nodes may know more."""
    search = said(definition, launches=[], events=[], tasks=[])
    assert (search["log"][0]["outcome"], search["log"][0]["said"]) == ("not formed", "")
    assert search["cause"].endswith("the nodes were there, see their logs.")


def test_ecs_is_not_asked_about_instances_that_are_not_there(definition: Mapping[str, Any]) -> None:
    """Without instances ECS has nothing to say, and each question would take events of the run's history."""
    search = said(
        definition, launches=["no Spot capacity available"], step="look", events=[(LATER, NO_SPACE)], tasks=[]
    )
    assert (search["log"][0]["outcome"], search["log"][0]["said"]) == ("capacity", "no Spot capacity available")
    assert (search["step"], search["number"]) == ("start", 2)


def test_errors_of_ecs_lose_no_words_of_auto_scaling(definition: Mapping[str, Any]) -> None:
    """An answer that does not come from ECS leaves the map with what is known."""
    for state in inner(definition, "Ask ECS").values():
        if state["Type"] == "Task":
            assert [(each["ErrorEquals"], each["Next"]) for each in state["Catch"]] == [
                (["States.ALL"], "Keep what ECS said")
            ]
    words = inner(definition, "Ask ECS")["Keep what ECS said"]["Output"]["words"]
    failed = {"service_events": ["so far"], "states": {"input": {"Error": "Ecs.ServerException", "Cause": ""}}}
    assert same(words, failed) == ["ECS: so far"]


def test_lost_instances_are_forgotten_after_the_fleet_is_empty(definition: Mapping[str, Any]) -> None:
    """Only instances of this fleet whose agent is disconnected are deregistered, and an error keeps no run waiting."""
    # GIVEN
    states = definition["States"]
    find = states["Find lost instances"]
    # THEN
    assert same(find["Arguments"]["Filter"], {"fleet": {"rest": {"name": "Own-Fleet-1"}}}) == (
        "attribute:cdk-horovod.fleet == Own-Fleet-1 and agentConnected == false"
    )
    assert find["Arguments"]["MaxResults"] == 10
    found = same(find["Assign"]["lost_instances"], {"states": {"result": {"ContainerInstanceArns": ["arn:one"]}}})
    assert found == ["arn:one"]
    assert "Find lost instances" not in asl.reachable(
        states, start="Start nodes", avoiding=frozenset({"Confirm that nothing runs"})
    )
    for name in ("Restore the group", "Find lost instances", "Forget lost instances"):
        assert [each["Next"] for each in states[name]["Catch"]] == ["Release the fleet"]


@pytest.mark.parametrize("layer", ["clean-up", "reaper"])
def test_other_layers_do_the_same_as_on_ec2(
    template: Mapping[str, Any], synthesised: Callable[[str], Path], layer: str
) -> None:
    """Clean-up and reaper scale the group to zero, and know nothing of ECS."""
    # GIVEN
    others = by_layer(json.loads((synthesised("ec2") / "Training.template.json").read_text()))[layer]
    # WHEN
    own = by_layer(template)[layer]
    # THEN
    assert [name for name, _ in asl.all_states(own)] == [name for name, _ in asl.all_states(others)]
    assert "aws-sdk:ecs" not in json.dumps(own)


def events(states: Mapping[str, asl.State], names: list[str], *, items: int) -> int:
    """Count the events of *names*; each map of them goes over *items*."""

    def each() -> Iterator[int]:
        for name in names:
            state = states[name]
            # A map is entered, started, succeeds and is left; each iteration starts and succeeds.
            of_kind = {"Task": 5, "Choice": 2, "Pass": 2, "Map": 4}
            yield of_kind[state["Type"]]
            if state["Type"] == "Map":
                within = state["ItemProcessor"]["States"]
                yield items * (2 + events(within, list(within), items=items))

    return sum(each())


def test_history_has_room_for_every_start(definition: Mapping[str, Any]) -> None:
    """With three numbers of GPUs, which is the most, a run that starts as often as it may stays below the limit."""
    # GIVEN
    states: Mapping[str, asl.State] = definition["States"]
    # WHEN
    looks = SOON + 60 * 60 // LATE_PAUSE_SECONDS
    emptying = 14 * looks + 10 * (60 * 60 // HOLD_AGAIN_SECONDS)
    once = (
        events(states, ["Choose the tasks"], items=3)
        + events(states, ["Ask ECS"], items=3)
        + events(states, ["Find lost instances", "Forget lost instances"], items=10)
    )
    again = EC2_EVENTS + events(states, ["Choose the tasks", "Ask ECS"], items=0)
    # THEN
    assert EVENTS_OF_THE_QUEUE + STARTS * again + once + emptying + 7 * MOST_PAGES + 500 < MOST_EVENTS
