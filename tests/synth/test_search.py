"""What follows when a ring does not form: the deployed expressions, evaluated by the reference JSONata."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cdk_horovod.workflow.capacity_search import UNSEEN, looked_at
from cdk_horovod.workflow.run_timeouts import STARTS, RunTimeouts
from horovod_local.corrections.allocation import refusal_message
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import contract
from support.asl import bare, by_reference

pytestmark = pytest.mark.synth

SPOT, ON_DEMAND = contract.SPOT, contract.ON_DEMAND
NO_SPOT, NO_ON_DEMAND, SPOT_QUOTA, ON_DEMAND_QUOTA, THROTTLED = (
    refusal_message(why=why, market=market, instance_type="g5.xlarge", zone="eu-west-1a")
    for why, market in (
        ("capacity", SPOT),
        ("capacity", ON_DEMAND),
        ("quota", SPOT),
        ("quota", ON_DEMAND),
        ("throttling", SPOT),
    )
)
# How groups with a mixed-instances policy put it: the market, EC2's error code, then the same words.
WITH_CODES = {
    "capacity": [
        "Could not launch Spot Instances. UnfulfillableCapacity - Unable to fulfill capacity due to your request "
        "configuration. Please adjust your request and try again. Launching EC2 instance failed.",
        "Could not launch On-Demand Instances. InsufficientInstanceCapacity - There is no capacity. Launching EC2 "
        "instance failed.",
    ],
    "quota": [
        "Could not launch Spot Instances. MaxSpotInstanceCountExceeded - Max spot instance count exceeded. Launching "
        "EC2 instance failed.",
        "Could not launch On-Demand Instances. VcpuLimitExceeded - You have requested more vCPU capacity than your "
        "current vCPU limit of 8 allows. Launching EC2 instance failed.",
    ],
    "throttling": [
        "Could not launch Spot Instances. RequestLimitExceeded - Request limit exceeded. Launching EC2 instance failed."
    ],
    "refused": ["The requested configuration is currently not supported. Launching EC2 instance failed."],
}
SINCE = 1_772_366_400
EARLIER, LATER = "2026-03-01T11:59:59.900Z", "2026-03-01T12:00:10Z"


def attempt(market: str, words: str, *, empties: bool = False, base: int = 1, families: str = "g") -> dict[str, Any]:
    """Write an attempt of a plan, as far as the search reads it."""
    return {
        "market": market,
        "words": words,
        "empties": empties,
        "base": base,
        "families": list(families),
        "seconds": 300,
        "first": 299,
        "patient": False,
    }


PLAN = [
    attempt(SPOT, "Spot in any zone"),
    attempt(SPOT, "Spot in a", empties=True),
    attempt(SPOT, "Spot in b", empties=True),
    attempt(ON_DEMAND, "On-Demand in any zone"),
]


def case(
    *messages: str,
    plan: Sequence[Mapping[str, Any]] = PLAN,
    number: int = 1,
    gpus: int = 4,
    time: str = LATER,
    **search: Any,
) -> dict[str, Any]:
    """Give the variables of a search whose attempt *number* failed, and what Auto Scaling answers then."""
    return {
        "search": {
            "number": number,
            "attempt": plan[number - 1],
            "since": SINCE,
            "starts": 1,
            "looks": 0,
            "again": 0,
            "refusal": "",
            "log": [],
            "tale": "",
            "step": "look",
            **search,
        },
        "fleet": {"id": "Fleet", "engine": "EC2", "plan": list(plan), "rest": {"unit": 1}},
        "request": {contract.GPUS: gpus, contract.MIN_GPUS: gpus},
        "attempt": 1,
        "lost_attempts": [],
        "states": {
            "result": {
                "Activities": [
                    {"StatusCode": "Failed", "StatusMessage": message, "StartTime": time} for message in messages
                ]
            }
        },
    }


@pytest.fixture(scope="module")
def why(definition: Mapping[str, Any]) -> str:
    """The expression that decides what follows."""
    return bare(definition["States"]["Find out why"]["Assign"]["search"])


def decided(expression: str, variables: Mapping[str, Any]) -> tuple[str, str, int]:
    """Evaluate it; the local cloud's answer must be the reference's. Answers the outcome, what follows, and which."""
    (found,) = by_reference([variables], expression)
    local = evaluate(expression, variables)
    for answer in (found, local):
        answer["log"][-1].pop("seconds")
        answer["tale"] = answer["cause"] = ""
    assert local == found
    return found["log"][-1]["outcome"], found["step"], found["number"]


CASES: dict[str, tuple[dict[str, Any], tuple[str, str, int]]] = {
    "no Spot: the next, with an empty fleet": (case(NO_SPOT), ("capacity", "empty", 2)),
    "no Spot in the last zone: On-Demand adds to what is there": (case(NO_SPOT, number=3), ("capacity", "start", 4)),
    "nothing On-Demand: the end": (case(NO_ON_DEMAND, number=4), ("capacity", "fail", 4)),
    "no word at all: the next": (case(), ("nothing", "empty", 2)),
    "words from before the attempt do not count": (case(NO_SPOT, time=EARLIER), ("nothing", "empty", 2)),
    "several words, several zones": (case(NO_SPOT, NO_ON_DEMAND, NO_SPOT), ("capacity", "empty", 2)),
    "Spot's quota passes over Spot": (case(SPOT_QUOTA), ("quota", "start", 4)),
    "On-Demand's quota for the leader: the others ask for as much": (case(ON_DEMAND_QUOTA), ("quota", "fail", 1)),
    "On-Demand's quota for all, where Spot asks for less": (
        case(ON_DEMAND_QUOTA, plan=[PLAN[3], PLAN[0]]),
        ("quota", "start", 2),
    ),
    "Spot's quota of other types": (
        case(SPOT_QUOTA, plan=[PLAN[0], attempt(SPOT, "P", empties=True, families="p")]),
        ("quota", "empty", 2),
    ),
    "a quota and a lack": (case(NO_SPOT, SPOT_QUOTA), ("quota", "start", 4)),
    "throttling: the same again": (case(THROTTLED), ("throttling", "start", 1)),
    "throttling in a zone: nothing is emptied": (case(THROTTLED, number=2), ("throttling", "start", 2)),
    "throttling twice: the end, for all else would be throttled, too": (
        case(THROTTLED, again=1),
        ("throttling", "fail", 1),
    ),
    "throttling and a lack: a lack": (case(THROTTLED, NO_SPOT), ("capacity", "empty", 2)),
    "unsupported in the zone": (case(*WITH_CODES["refused"]), ("refused", "empty", 2)),
    "nodes that are there but formed no ring": (case(NO_SPOT, step="fail"), ("not formed", "fail", 1)),
    "no room in the history": (case(NO_SPOT, starts=STARTS), ("capacity", "fail", 1)),
    "only one attempt": (case(NO_SPOT, plan=PLAN[:1]), ("capacity", "fail", 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_what_follows_a_failed_attempt(why: str, name: str) -> None:
    """Missing capacity leads to the next attempt, a quota skips some, throttling repeats, and the last ends the run."""
    variables, expected = CASES[name]
    assert decided(why, variables) == expected


@pytest.mark.parametrize(("kind", "message"), [(kind, text) for kind, texts in WITH_CODES.items() for text in texts])
def test_codes_tell_as_much_as_words(why: str, kind: str, message: str) -> None:
    """EC2's error code, which groups of several types report first, decides as its words do."""
    assert decided(why, case(message))[0] == kind


def test_cause_tells_of_every_attempt(why: str) -> None:
    """The cause has number, time and EC2's sentence of each attempt since the last restart, and a quota's code."""
    # GIVEN an attempt of the ring before, of which nothing is told any more
    variables = case(NO_SPOT, number=1)
    # WHEN two attempts fail, and the last one, too
    for words in ("", ON_DEMAND_QUOTA):
        (search,) = by_reference([variables], why)
        variables = {
            **case(words),
            "search": {**search, "number": 4 if words else 2, "attempt": PLAN[3 if words else 1]},
        }
    (found,) = by_reference([variables], why)
    # THEN
    cause = re.sub(r"\d{3,} s", "600 s", found["cause"])
    assert cause.startswith(
        f"The ring of 4 GPUs did not form. Attempt 1 of 4, {PLAN[0]['words']}, 600 s: EC2 said: {NO_SPOT} "
        f"Attempt 2 of 4, {PLAN[1]['words']}, 600 s: Auto Scaling reports no failed launch, see the logs of the nodes. "
        f"Attempt 4 of 4, {PLAN[3]['words']}, "
    )
    assert cause.endswith(
        f" s: EC2 said: {ON_DEMAND_QUOTA} The quota of On-Demand is L-DB2E81BA (Running On-Demand G and VT instances) "
        "in Service Quotas."
    )
    assert len(found["log"]) == 3
    assert found["refusal"] == ON_DEMAND_QUOTA


def test_long_words_are_cut(why: str) -> None:
    """EC2's words are cut so that a variable and an execution's cause can hold them."""
    (found,) = by_reference([case("y" * 100_000, number=4, tale=" Attempt 1 of 4, Spot, 1 s." * 5_000)], why)
    assert len(found["cause"]) < contract.CAUSE_LIMIT
    assert len(found["refusal"]) == 600


def test_an_api_that_does_not_answer_is_no_lack(definition: Mapping[str, Any]) -> None:
    """If Auto Scaling gives no reason, the attempt is repeated once, and then the run ends and says that."""
    # GIVEN
    (catch,) = definition["States"]["Find out why"]["Catch"]
    expression = bare(catch["Assign"]["search"])
    # WHEN
    once, twice = by_reference([case(), case(again=1)], expression)
    # THEN
    assert (once["log"][0]["outcome"], once["step"], once["number"]) == ("unknown", "start", 1)
    assert (twice["step"], twice["cause"]) == (
        "fail",
        f"The ring of 4 GPUs did not form. Attempt 1 of 4, Spot in any zone, {twice['log'][0]['seconds']} s: "
        "Auto Scaling could not be asked.",
    )


@pytest.mark.parametrize(
    ("instances", "patient", "step"),
    [
        ([], False, "look"),
        ([("4", "Pending")], False, "wait"),
        ([("1", "InService"), ("1", "InService"), ("1", "InService")], False, "look"),
        ([("1", "InService"), ("4", "Terminating:Wait"), ("3", "Pending")], False, "wait"),
        ([("4", "Terminated")], False, "look"),
        ([(None, "InService")] * 4, False, "wait"),
        ([("4", "InService")], True, "fail"),
        ([], True, "look"),
    ],
)
def test_nodes_that_are_there_get_their_time(
    definition: Mapping[str, Any], instances: list[tuple[str | None, str]], patient: bool, step: str
) -> None:
    """GPUs that came within the attempt's time get start_timeout to form the ring, once."""
    # GIVEN what the group answers
    expression = bare(definition["States"]["See what is there"]["Assign"]["search"])
    members = [
        {"LifecycleState": state} | ({} if weight is None else {"WeightedCapacity": weight})
        for weight, state in instances
    ]
    variables = case()
    variables["search"]["attempt"] = {**PLAN[0], "patient": patient}
    variables["states"] = {"result": {"AutoScalingGroups": [{"Instances": members}]}}
    # WHEN
    (found,) = by_reference([variables], expression)
    # THEN
    assert evaluate(expression, variables) == found
    assert found["step"] == step
    assert found["looks"] == 1
    times = (found["attempt"]["seconds"], found["attempt"]["first"], found["attempt"]["patient"])
    assert times == ((1800, 900, True) if step == "wait" else (300, 299, patient))


@pytest.mark.parametrize(
    ("gpus", "coming", "step"), [(4, False, "wait"), (0, True, "wait"), (0, False, "look"), (1, False, "look")]
)
def test_nodes_on_the_way_are_waited_for(gpus: int, coming: bool, step: str) -> None:
    """A look before the time for the first node is over changes nothing if nodes are there or on the way."""
    # GIVEN
    expression = bare(looked_at("$gpus", "$coming", timeouts=RunTimeouts())["search"])
    variables = {**case(since=int(time.time()) - 30, looks=7), "gpus": gpus, "coming": coming}
    # WHEN
    (found,) = by_reference([variables], expression)
    # THEN
    assert evaluate(expression, variables) == found
    assert found == {**variables["search"], "looks": 8, "step": step}


def test_a_look_without_an_answer_is_repeated_while_there_is_time() -> None:
    """A provider that could not be asked is asked again, and judged only when the time for the first node is over."""
    expression = bare(UNSEEN["search"])
    early, late = by_reference([case(since=int(time.time()) - 30), case()], expression)
    assert (early["step"], late["step"]) == ("wait", "look")


def test_a_smaller_ring_is_enough(definition: Mapping[str, Any]) -> None:
    """A ring of min_gpus is waited for once that many GPUs are there."""
    expression = bare(definition["States"]["See what is there"]["Assign"]["search"])
    variables = case(gpus=8)
    variables["request"] = {contract.GPUS: 8, contract.MIN_GPUS: 2}
    members = [{"LifecycleState": "InService", "WeightedCapacity": "2"}]
    variables["states"] = {"result": {"AutoScalingGroups": [{"Instances": members}]}}
    (found,) = by_reference([variables], expression)
    assert found["step"] == "wait"
