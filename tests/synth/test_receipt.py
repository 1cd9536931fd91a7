"""The receipt that the state machines build: deployed expressions, evaluated as Step Functions does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdk_horovod import Ledger
from cdk_horovod.asl.resolved import resolved_definitions
from cdk_horovod.workflow.next_fleet import NONE_LEFT
from cdk_horovod.workflow.receipt import UNREAD_BY_ANOTHER, UNREAD_BY_THE_RUN, write_the_receipt
from cdk_horovod.workflow.receipt_math import MOST_LISTED, MOST_PAGES, PAGE, STILL_THERE_SECONDS
from cdk_horovod.workflow.ring_price import UNKNOWN
from horovod_client import receipt_schema, render_receipt
from horovod_client.prices.fleet_prices import Price, Prices, price_of
from horovod_client.results.receipt_costs import complete_costs
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_node import contract
from support.asl import bare, by_reference
from support.receipts import validate_receipt

pytestmark = pytest.mark.synth

NOON = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
ARN = "arn:aws:states:eu-west-1:123456789012:execution:Training:digits-1"
PRICES = [
    {"instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1a", "usd": 0.36},
    {"instance_type": "g5.xlarge", "market": "spot", "zone": "eu-west-1b", "usd": 0.72},
    {"instance_type": "g5.xlarge", "market": "on-demand", "zone": "", "usd": 3.6, "source": "submitter"},
]
MOMENTS = {
    "started_at": 0,
    "reserved_at": 10,
    "asked_at": 12,
    "ring_at": 112,
    "trained_at": 1112,
    "released_at": 1114,
    "saved_at": 1120,
}


def iso(second: float) -> str:
    """Write the time *second* seconds after noon as `$now()` does."""
    return (NOON + timedelta(seconds=second)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch(second: float) -> float:
    """Give the same time in epoch seconds."""
    return NOON.timestamp() + second


def times(*names: str, **more: float) -> dict[str, str]:
    """Give the times of these `MOMENTS`, and *more* of their kind."""
    return {name: iso(second) for name, second in {**{name: MOMENTS[name] for name in names}, **more}.items()}


def item(node: str, *, attempt: int = 1, market: str = "spot", zone: str = "eu-west-1a", **at: float) -> dict[str, Any]:
    """Write a node's item as DynamoDB's Query gives it; its times are seconds after noon."""
    return {
        contract.SORT_KEY: {"S": contract.node_key("TrainingFleet", "digits-1", attempt, node)[1]},
        contract.NODE: {"S": node},
        contract.GPUS: {"N": "1"},
        contract.INSTANCE_TYPE: {"S": "g5.xlarge"},
        contract.MARKET: {"S": market},
        contract.ZONE: {"S": zone},
        contract.ADDRESS: {"S": "10.0.0.1"},
        contract.IMAGE: {"S": "training@sha256:abc"},
        contract.LIBRARY_VERSION: {"S": "0.5.0"},
        **{name: {"N": str(int(epoch(second)))} for name, second in at.items()},
    }


def leads(node: str, *, attempt: int = 1) -> dict[str, Any]:
    """Write the item of an attempt's leader."""
    return {
        contract.SORT_KEY: {"S": contract.leader_key("TrainingFleet", "digits-1", attempt)[1]},
        contract.NODE: {"S": node},
    }


LEADER = item(
    "i-0a", market="on-demand", booted_at=42, pull_began_at=52, pulled_at=82, joined_at=85, ready_at=100, seen_at=1118
)
WORKER = item(
    "i-0b", zone="eu-west-1b", booted_at=52, pull_began_at=60, pulled_at=90, joined_at=92, seen_at=1110, left_at=1114
)
STAYING = {name: value for name, value in WORKER.items() if name != contract.LEFT_AT}
"""The worker of a run that was not over yet."""


FLEET = {
    "fleet": "Fleet",
    "engine": "ecs",
    "auto_scaling_group": "g",
    "cluster": "team",
    "services": ["arn:aws:ecs:eu-west-1:123456789012:service/team/four"],
}

VARIABLES: Mapping[str, Any] = {
    "run": "digits-1",
    "run_id": "Digits/digits-1/20260301T120000Z",
    "attempt": 1,
    "outcome": {"succeeded": True, "error": "", "cause": ""},
    "request": {"gpus": 2},
    "fleet": {"id": "Fleet", "group": "g", "in_receipt": FLEET},
    "prices": PRICES,
    "price": UNKNOWN,
    "lost_attempts": [],
    "search": {"log": []},
    "left": NONE_LEFT,
    "bills": [],
    "ring": {"gpus": 2, "leader": {"node": "i-0a"}, "nodes": []},
    "trained": {
        "ranks": 2,
        "steps": 90,
        contract.RING: {"elastic": True, "resets": 0, "smallest": 2, "largest": 2, "repeated_steps": 10},
        contract.TRAINED_GPU_SECONDS: 1800,
    },
    "saved": {"bytes": 1000, "files": 2},
    "times": times(*MOMENTS),
    "states": {"context": {"Execution": {"Id": ARN}}},
}
"""What a successful run of two nodes has."""


@pytest.fixture(scope="module")
def states() -> Mapping[str, Any]:
    """The states that write a receipt."""
    stack = Stack(App(), "Receipts")
    first = write_the_receipt(
        stack,
        bucket=s3.Bucket.from_bucket_name(stack, "Models", "models"),
        training="Digits",
        ledger=Ledger(stack, "Ledger"),
        then=sfn.Succeed.jsonata(stack, "End"),
    )
    sfn.StateMachine(
        stack,
        "Machine",
        query_language=sfn.QueryLanguage.JSONATA,
        definition_body=sfn.DefinitionBody.from_chainable(sfn.Chain.start(first)),
    )
    (definition,) = resolved_definitions(Template.from_stack(stack).to_json()).values()
    found: Mapping[str, Any] = definition["States"]
    return found


def both(expression: str, variables: Mapping[str, Any]) -> Any:
    """Evaluate by the reference and by the local cloud, which must agree but for the time of day and a last digit."""
    text = bare(expression).replace("$now()", f"'{iso(1150)}'")
    (found,) = by_reference([variables], text)
    assert alike(evaluate(text, variables), found)
    return found


def alike(one: Any, other: Any) -> bool:
    """Compare JSON values; amounts of money that lie between two may be rounded to either."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) or isinstance(other, float):
        return bool(one == pytest.approx(other, abs=1.01e-4))
    return bool(one == other)


def tallied(
    states: Mapping[str, Any],
    *items: Mapping[str, Any],
    variables: Mapping[str, Any] = VARIABLES,
    evaluated_by: Callable[[str, Mapping[str, Any]], Any] = both,
) -> dict[str, Any]:
    """Read *items* as the loop of states does, in pages of a Query backwards, and give `$tally`."""
    reading = states["Read the nodes"]
    tally: dict[str, Any] = dict(UNREAD_BY_ANOTHER["tally"])
    while tally["unread"]:
        ask, limit = tally["asks"][0]["prefix"], evaluate(reading["Arguments"]["Limit"], {"tally": tally})
        ahead = sorted(
            (item for item in items if ask <= item[contract.SORT_KEY]["S"] < tally["from"]),
            key=lambda each: str(each[contract.SORT_KEY]["S"]),
            reverse=True,
        )
        result: dict[str, Any] = {
            "Items": ahead[:limit],
            "Count": len(ahead[:limit]),
            "ScannedCount": len(ahead[:limit]),
        }
        if len(ahead) > limit:
            result["LastEvaluatedKey"] = {contract.SORT_KEY: result["Items"][-1][contract.SORT_KEY]}
        tally = evaluated_by(reading["Assign"]["tally"], {**variables, "tally": tally, "states": {"result": result}})
    return tally


def run_receipt(states: Mapping[str, Any], *items: Mapping[str, Any], **variables: Any) -> dict[str, Any]:
    """Build a run's receipt from `VARIABLES` and *variables*."""
    given = {**VARIABLES, **variables}
    given = {"tally": tallied(states, *items, variables=given), **given}
    found = both(states["Write the receipt"]["Arguments"]["Body"], given)
    assert isinstance(found, dict)
    validate_receipt(found)
    assert render_receipt(found)
    return found


def test_what_a_provider_bills_for_jobs_decides(states: Mapping[str, Any]) -> None:
    """Billed seconds of a provider's jobs, at the On-Demand price, count more than the times of their nodes."""
    # GIVEN a first job of which a quarter is billed, and a second that is billed whole
    job = {"job": "training-1-run-1", "instance_type": "g5.xlarge", "market": "spot", "nodes": 2}
    bills = [
        {**job, "seconds": 3600, "billed_seconds": 900},
        {**job, "job": "training-1-run-2", "market": "on-demand", "seconds": 360, "billed_seconds": 360},
    ]
    prices = [{"instance_type": "g5.xlarge", "market": "on-demand", "zone": "", "usd": 2.0, "source": "construct"}]
    # WHEN
    receipt = run_receipt(states, LEADER, WORKER, leads("i-0a"), bills=bills, prices=prices)
    unpriced = run_receipt(states, LEADER, WORKER, leads("i-0a"), bills=bills, prices=[])
    # THEN
    cost = {name: receipt["cost"][name] for name in ("usd", "spent_usd", "on_demand_usd", "saved_usd")}
    assert cost == {"usd": 1.4, "spent_usd": 1.4, "on_demand_usd": 4.4, "saved_usd": 3.0}
    assert receipt["jobs"] == bills
    assert "2 x g5.xlarge (spot), 900 of 3600 s are billed" in render_receipt(receipt)
    assert "cost" not in unpriced
    # AND a client that knows the price completes the cost
    known = Prices(found=(Price(instance_type="g5.xlarge", market="on-demand", zone="", usd=2.0, at=0),), remarks=())
    assert complete_costs(unpriced, prices=known)["cost"] == {"usd": 1.4, "on_demand_usd": 4.4, "saved_usd": 3.0}


def test_nodes_can_be_found_in_the_console(states: Mapping[str, Any]) -> None:
    """The receipt names the engine and its fleet's resources, as far as there was a fleet."""
    # WHEN
    receipt, refused = run_receipt(states, LEADER), run_receipt(states, fleet={"id": ""}, ring={"gpus": 0})
    # THEN
    assert (receipt["fleet"], receipt["engine"], receipt["fleets"]) == ("Fleet", "ecs", [FLEET])
    assert "engine      ecs, Auto Scaling group g, cluster team, services four" in render_receipt(receipt)
    assert refused.keys() & {"fleet", "engine", "fleets"} == set()


def test_receipt_of_a_run_that_went_well(states: Mapping[str, Any]) -> None:
    """The receipt has every part of the time, every node, the cost, and the cost of the same On-Demand."""
    # WHEN
    receipt = run_receipt(states, LEADER, WORKER, leads("i-0a"))
    # THEN the parts are those of the node that joined last, and add up
    assert receipt["seconds"] == {
        "queue": 10,
        "capacity": 40,
        "boot": 8,
        "pull": 30,
        "join": 22,
        "train": 1000,
        "save": 8,
        "terminate": 30,
    }
    # AND each node has its own time: the worker until it left
    assert [(node["node"], node["from"], node["until"]) for node in receipt["nodes"]] == [
        ("i-0b", iso(52), iso(1114)),
        ("i-0a", iso(42), iso(1150)),
    ]
    assert [(node["usd"], node["on_demand_usd"]) for node in receipt["nodes"]] == [(0.2124, 1.062), (1.108, 1.108)]
    assert receipt["cost"] == {
        "usd": 1.3204,
        "spent_usd": 1.3204,
        "on_demand_usd": 2.17,
        "saved_usd": 0.8496,
        "usd_per_hour": 4.32,
    }
    assert receipt["gpu_seconds"] == {"billed": 2170, "useful": 1620, "ratio": 0.7465}
    assert (receipt["version"], receipt["image"], receipt["library_version"]) == (2, "training@sha256:abc", "0.5.0")


@pytest.mark.parametrize(
    ("began", "ended", "join", "install"),
    [
        (93, 103.5, 11.5, 10.5),
        # In an attempt before this one.
        (-60, -50, 22, 0),
    ],
)
def test_receipt_tells_of_requirements(
    states: Mapping[str, Any], began: float, ended: float, join: float, install: float
) -> None:
    """Installing a script's requirements.txt is a part of the time of its own."""
    # GIVEN
    installing = {
        contract.INSTALL_BEGAN_AT: {"N": str(epoch(began))},
        contract.INSTALLED_AT: {"N": str(epoch(ended))},
    }
    # WHEN
    receipt = run_receipt(states, LEADER, {**WORKER, **installing})
    # THEN
    assert {part: receipt["seconds"][part] for part in ("pull", "join", "install", "train")} == {
        "pull": 30,
        "join": join,
        "install": install,
        "train": 1000,
    }
    assert f"{install:10.1f} s  installing requirements.txt" in render_receipt(receipt)


def test_receipt_of_a_run_that_started_again(states: Mapping[str, Any]) -> None:
    """A lost node ends with its last sign of life, a node of both attempts has one row, and lost time is shown."""
    # GIVEN
    items = [
        item("i-0a", attempt=1, market="on-demand", joined_at=100, seen_at=300),
        item("i-0b", attempt=1, joined_at=100, seen_at=400),
        item("i-0b", attempt=2, joined_at=410, seen_at=1110, left_at=1114),
        item("i-0c", attempt=2, market="on-demand", joined_at=500, seen_at=1118),
    ]
    # WHEN
    receipt = run_receipt(
        states,
        *items,
        attempt=2,
        ring={"gpus": 2, "leader": {"node": "i-0c"}, "nodes": []},
        lost=[{"attempt": 1, "error": "LeaderLost", "cause": "silent", "at": iso(390)}],
        times={**times(*MOMENTS), **times(ring_at=512, restarted_at=392)},
    )
    # THEN
    assert {node["node"]: (node["from"], node["until"]) for node in receipt["nodes"]} == {
        "i-0a": (iso(100), iso(300)),
        "i-0b": (iso(100), iso(1114)),
        "i-0c": (iso(500), iso(1150)),
    }
    assert {part: receipt["seconds"][part] for part in ("lost", "capacity", "join", "train")} == {
        "lost": 380,
        "capacity": 108,
        "join": 12,
        "train": 600,
    }
    assert "boot" not in receipt["seconds"]


def test_receipt_of_a_run_that_failed_in_training(states: Mapping[str, Any]) -> None:
    """Steps and ranks come from the progress item if the leader gave none, and the ceiling is shown."""
    # GIVEN
    progress = {"step": 40, "ranks": 2, "resets": 0, "repeated_steps": 0, "loss": None, "trained_gpu_seconds": 700.5}
    told = {
        contract.SORT_KEY: {"S": contract.PROGRESS_SORT_KEY},
        contract.PROGRESS_JSON: {"S": json.dumps(progress)},
    }
    price = {"usd_per_hour": 4.32, "billed_from": epoch(12), "ceiling_usd": 5, "ceiling_at": epoch(4178)}
    # WHEN
    receipt = run_receipt(
        states,
        LEADER,
        STAYING,
        told,
        outcome={"succeeded": False, "error": "TrainingFailed", "cause": "ValueError"},
        trained={"ranks": 0},
        price=price,
        request={"gpus": 2, "max_cost_usd": 5},
        times=times("started_at", "reserved_at", "asked_at", "ring_at", failed_at=1119),
    )
    # THEN
    assert (receipt["error"], receipt["ranks"], receipt["steps"]) == ("TrainingFailed", 2, 40)
    assert (receipt["seconds"]["train"], receipt["seconds"]["terminate"]) == (1007, 31)
    assert (receipt["cost"]["ceiling_usd"], receipt["cost"]["usd_per_hour"]) == (5, 4.32)
    assert receipt["gpu_seconds"]["useful"] == 700.5
    assert [node["until"] for node in receipt["nodes"]] == [iso(1150), iso(1150)]


def test_receipt_without_the_ledger_or_prices(states: Mapping[str, Any]) -> None:
    """The receipt leaves out what could not be read, invents nothing and says so."""
    # GIVEN a ledger that answers none of the questions
    unreadable = dict(UNREAD_BY_ANOTHER["tally"])
    while unreadable["unread"]:
        unreadable = both(states["Read the nodes"]["Catch"][0]["Assign"]["tally"], {"tally": unreadable})
    # WHEN no price is known, or nothing was ever started
    unread = run_receipt(states, tally=unreadable)
    unpriced = run_receipt(states, LEADER, WORKER, prices=PRICES[:2])
    refused = run_receipt(
        states,
        fleet={},
        attempt=0,
        ring={"gpus": 0},
        trained={"ranks": 0},
        outcome={"succeeded": False, "error": "InvalidRequest", "cause": "'gpus' is missing"},
        times=times("started_at", failed_at=1),
    )
    # THEN
    assert {"nodes", "gpu_seconds", "cost"} & (unread.keys() | refused.keys()) == set()
    assert unread["partial"] == "The ledger could not be read to the end."
    assert "partial" not in refused
    assert {"cost", "on_demand_prices"} & unpriced.keys() == set()
    assert {node["node"]: node.get("usd") for node in unpriced["nodes"]} == {"i-0b": 0.2124, "i-0a": None}
    assert refused["seconds"] == {"queue": 1}


def test_receipt_of_one_node_and_one_price(states: Mapping[str, Any]) -> None:
    """A list of one item stays a list, though JSONata unwraps it."""
    # WHEN
    receipt = run_receipt(states, LEADER, prices=PRICES[2:])
    # THEN
    assert [node["node"] for node in receipt["nodes"]] == ["i-0a"]
    assert receipt["cost"]["usd"] == 1.108
    assert receipt["seconds"]["capacity"] == 30


def test_receipt_says_who_told_the_prices(states: Mapping[str, Any]) -> None:
    """The receipt has the On-Demand price and its source for the types of its nodes only."""
    # GIVEN
    others = [
        {"instance_type": "g5.2xlarge", "market": "on-demand", "zone": "", "usd": 4, "source": "construct"},
        {"instance_type": "g6.xlarge", "market": "on-demand", "zone": "", "usd": 2, "source": "price list"},
    ]
    node = {**WORKER, contract.INSTANCE_TYPE: {"S": "g5.2xlarge"}}
    # WHEN
    receipt = run_receipt(states, LEADER, node, prices=[*PRICES, *others])
    # THEN
    assert receipt["on_demand_prices"] == [
        {"instance_type": "g5.xlarge", "usd_per_hour": 3.6, "source": "submitter"},
        {"instance_type": "g5.2xlarge", "usd_per_hour": 4, "source": "construct"},
    ]
    row = receipt_schema()["properties"]["on_demand_prices"]["items"]["properties"]
    assert row["source"]["enum"] == [*contract.PRICE_SOURCES]
    assert [line for line in render_receipt(receipt).splitlines() if line.startswith("prices")] == [
        "prices      On-Demand, USD an hour, from the stack: g5.2xlarge 4.00",
        "prices      On-Demand, USD an hour, from the client that submitted the run: g5.xlarge 3.60",
    ]


def test_leader_and_attempts_are_read_where_nobody_knows_them(states: Mapping[str, Any]) -> None:
    """Clean-up and reaper read the last leader and attempt from the ledger, where 12 follows 9."""
    # WHEN
    receipt = run_receipt(
        states, LEADER, leads("i-0x", attempt=9), leads("i-0a", attempt=12), attempt=-1, ring={"gpus": 0}
    )
    # THEN
    assert (receipt["leader"], receipt["attempts"]) == ("i-0a", 12)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.data())
def test_accounts_of_any_run(states: Mapping[str, Any], case: st.DataObject) -> None:
    """For any nodes, the sums are those of a plain computation over all items."""
    # GIVEN nodes of some types, markets and zones in some attempts, each alive for some time
    names = case.draw(st.lists(st.sampled_from([f"i-{number}" for number in range(6)]), min_size=1, unique=True))
    kinds = {name: (case.draw(st.sampled_from(TYPES)), *case.draw(st.sampled_from(PLACES))) for name in names}
    gpus = {name: case.draw(st.integers(1, 8)) for name in names}
    items = []
    for attempt in range(1, case.draw(st.integers(1, 3)) + 1):
        for name in case.draw(st.lists(st.sampled_from(names), unique=True)):
            begin = case.draw(st.integers(0, 900))
            kind, market, zone = kinds[name]
            more = {"left_at": begin + 90} if case.draw(st.booleans()) else {}
            found = item(name, attempt=attempt, market=market, zone=zone, joined_at=begin, seen_at=begin + 80, **more)
            items.append({**found, contract.INSTANCE_TYPE: {"S": kind}, contract.GPUS: {"N": str(gpus[name])}})
    prices = case.draw(st.lists(st.sampled_from(MANY_PRICES), unique_by=str))
    # WHEN
    receipt = run_receipt(states, *items, prices=prices, fleet={"id": "F"}, outcome=FAILED, times=FAILED_TIMES)
    # THEN
    seconds = lives(items)
    rates = {
        name: price_of(map(as_price, prices), instance_type=k, market=m, zone=z) for name, (k, m, z) in kinds.items()
    }
    assert {node["node"]: node["gpus"] for node in receipt.get("nodes", [])} == {name: gpus[name] for name in seconds}
    if seconds:
        assert receipt["gpu_seconds"]["billed"] == sum(gpus[name] * lived for name, lived in seconds.items())
    if seconds and None not in (rates[name] for name in seconds):
        usd = sum(float(rates[name] or 0) * lived / 3600 for name, lived in seconds.items())
        assert receipt["cost"]["usd"] == pytest.approx(usd, abs=1e-4)
    else:
        assert "cost" not in receipt


TYPES = ("g5.xlarge", "g6.xlarge")
PLACES = (("spot", "eu-west-1a"), ("spot", "eu-west-1b"), ("on-demand", "eu-west-1a"))
MANY_PRICES = [
    {"instance_type": kind, "market": market, "zone": zone, "usd": usd}
    for kind in TYPES
    for market, zone, usd in (
        ("spot", "eu-west-1a", 0.5),
        ("spot", "eu-west-1b", 0.7),
        ("spot", "eu-west-1c", 0.9),
        ("on-demand", "", 2.25),
    )
]
FAILED = {"succeeded": False, "error": "LeaderLost", "cause": "silent"}
FAILED_TIMES = times("started_at", "asked_at", "ring_at", failed_at=1100, terminated_at=1150)


def as_price(row: Mapping[str, Any]) -> Price:
    """Give a row of `$prices` as clients know it."""
    return Price(instance_type=row["instance_type"], market=row["market"], zone=row["zone"], usd=row["usd"])


def lives(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Compute for how many seconds each node was there, from the documentation alone."""
    moments: dict[str, list[tuple[int, int, int]]] = {}
    for each in items:
        joined, seen, left = (int(each.get(name, {"N": "0"})["N"]) for name in ("joined_at", "seen_at", "left_at"))
        moments.setdefault(each[contract.NODE]["S"], []).append((joined, seen, left))
    last = max((seen for found in moments.values() for _, seen, _ in found), default=0)
    until = {}
    for name, found in moments.items():
        seen, left = max(seen for _, seen, _ in found), max(left for _, _, left in found)
        end = max(left, seen) if left else int(epoch(1150)) if seen >= last - STILL_THERE_SECONDS else seen
        until[name] = end - min(joined for joined, _, _ in found)
    return until


@pytest.mark.slow
def test_receipt_of_700_nodes_and_20_restarts_is_exact(states: Mapping[str, Any]) -> None:
    """Each attempt loses a tenth of its nodes; the bill counts every one of them, once, and all of it fits."""
    # GIVEN 700 nodes, in each attempt 70 others than before
    items = []
    for attempt in range(1, 22):
        for place in range(700):
            number = place if place >= 70 else 1000 * attempt + place
            joined = 1000 * attempt - 900 if place < 70 or attempt == 1 else 1000 * attempt - 800
            items.append(
                item(
                    f"i-{number:017x}",
                    attempt=attempt,
                    booted_at=100 if place >= 70 else joined - 10,
                    joined_at=joined,
                    seen_at=1000 * attempt,
                )
            )
    assert len(items) == 14_700
    # WHEN
    reading = states["Read the nodes"]
    given = {**VARIABLES, "outcome": FAILED, "attempt": 21, "times": {**FAILED_TIMES, "terminated_at": iso(21_030)}}
    pages = pages_of(items)
    cases = [{**given, "states": {**VARIABLES["states"], "result": page}} for page in pages]
    cases[0]["tally"] = {**UNREAD_BY_THE_RUN["tally"], "asks": [contract.NODE_PREFIX]}
    tallies = by_reference(cases, bare(reading["Assign"]["tally"]), carried="tally")
    body = bare(states["Write the receipt"]["Arguments"]["Body"])
    (receipt,) = by_reference([{**given, "tally": tallies[-1]}], body)
    # THEN
    validate_receipt(receipt)
    assert "partial" not in receipt
    assert (len(receipt["nodes"]), receipt["more_nodes"]["count"]) == (MOST_LISTED, 700 + 20 * 70 - MOST_LISTED)
    billed = 630 * (21_030 - 100) + 20 * 70 * 910 + 70 * (910 + 30)
    assert receipt["gpu_seconds"]["billed"] == billed
    assert receipt["cost"]["usd"] == pytest.approx(billed * 0.36 / 3600, abs=0.01)
    assert max(len(json.dumps(value)) for value in (*tallies, *pages, receipt)) < STATE_BYTES
    assert len(pages) < MOST_PAGES
    assert "more nodes" in render_receipt(receipt)


STATE_BYTES = 256 * 1024
"""Of a result and of a variable (Step Functions Developer Guide, "Service quotas")."""


def pages_of(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give *items* as Queries backwards do."""
    ordered = sorted(items, key=lambda each: str(each[contract.SORT_KEY]["S"]), reverse=True)
    pages = [ordered[start : start + PAGE] for start in range(0, len(ordered), PAGE)]
    return [
        {
            "Items": page,
            "Count": len(page),
            "ScannedCount": len(page),
            **({} if page is pages[-1] else {"LastEvaluatedKey": {contract.SORT_KEY: page[-1][contract.SORT_KEY]}}),
        }
        for page in pages
    ]


def test_page_of_the_largest_items_fits(states: Mapping[str, Any]) -> None:
    """A page of the largest items that a script can cause fits into a state's payload."""
    # GIVEN what the filter lets through
    arguments = states["Read the nodes"]["Arguments"]
    values, names = arguments["ExpressionAttributeValues"], arguments["ExpressionAttributeNames"]
    clauses = re.findall(r"size\((#\w+)\) <= (:\w+)", arguments["FilterExpression"])
    texts = {names[name]: int(values[most]["N"]) for name, most in clauses}
    numbers = re.findall(r"(#\w+) BETWEEN", arguments["FilterExpression"])
    projection = evaluate(arguments["ProjectionExpression"], {"tally": {"asks": [{"prefix": contract.NODE_PREFIX}]}})
    read = {names[name] for name in projection.split(", ")}
    assert read <= texts.keys() | {names[name] for name in numbers}
    # WHEN every text is of characters that JSON writes with six, and every number has all its digits
    largest = {
        **{name: {"S": "\x01" * most} for name, most in texts.items() if name in read},
        **{names[name]: {"N": f"1772366400.{'9' * 28}"} for name in numbers},
    }
    key = {contract.SORT_KEY: {"S": "\x01" * 1024}, contract.PARTITION_KEY: {"S": "x" * 2048}}
    # THEN
    assert len(json.dumps({"Items": [largest] * PAGE, "LastEvaluatedKey": key})) < STATE_BYTES
