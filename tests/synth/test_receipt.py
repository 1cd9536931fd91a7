"""The receipt, as the state machines make it out: deployed expressions, evaluated as Step Functions does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Template

from cdk_horovod import Ledger
from cdk_horovod.workflow.pricing import UNKNOWN
from cdk_horovod.workflow.receipt import leave_a_receipt, write_the_receipt
from cdk_horovod.workflow.resolved import resolved_definitions
from cdk_horovod.workflow.search import NO_SEARCH
from horovod_client.receipt import receipt_schema, render_receipt
from horovod_local.corrections.jsonata import evaluate
from horovod_node import contract
from receipts import validate_receipt
from reference_jsonata import bare, by_reference

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
    """Give these of `MOMENTS`, and more of their kind."""
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
WORKER = item("i-0b", zone="eu-west-1b", booted_at=52, pull_began_at=60, pulled_at=90, joined_at=92, seen_at=1110)


VARIABLES: Mapping[str, Any] = {
    "run": "digits-1",
    "attempt": 1,
    "outcome": {"succeeded": True, "error": "", "cause": ""},
    "request": {"gpus": 2},
    "fleet": {"id": "Fleet", "group": "g"},
    "prices": PRICES,
    "price": UNKNOWN,
    "lost": [],
    "search": NO_SEARCH,
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
def machines() -> Mapping[str, Mapping[str, Any]]:
    """The states that write a receipt, of the run itself and of one who writes in its place."""
    stack = Stack(App(), "Receipts")
    bucket = s3.Bucket.from_bucket_name(stack, "Models", "models")
    ledger = Ledger(stack, "Ledger")
    for name in ("Run", "CleanUp"):
        end = sfn.Succeed.jsonata(stack, f"{name} ends")
        first = (
            write_the_receipt(stack, bucket=bucket, training="Digits", ledger=ledger, then=end)
            if name == "Run"
            else leave_a_receipt(
                stack, bucket=bucket, training="Digits", ledger=ledger, writer="clean-up", then=end, of=" in its place"
            )
        )
        sfn.StateMachine(
            stack,
            name,
            query_language=sfn.QueryLanguage.JSONATA,
            definition_body=sfn.DefinitionBody.from_chainable(sfn.Chain.start(first)),
        )
    states: dict[str, Any] = {}
    for definition in resolved_definitions(Template.from_stack(stack).to_json()).values():
        states |= definition["States"]
    return {"workflow": states, "clean-up": {name.removesuffix(" in its place"): s for name, s in states.items()}}


def both(expression: str, variables: Mapping[str, Any]) -> Any:
    """Evaluate by the reference and by the local cloud, which must agree but for the time of day."""
    text = bare(expression).replace("$now()", f"'{iso(1150)}'")
    (found,) = by_reference([variables], text)
    assert evaluate(text, variables) == found
    return found


def read(states: Mapping[str, Any], *items: Mapping[str, Any]) -> dict[str, Any]:
    """Give `$ledger` as it is read from these items, in the order of a Query backwards."""
    ordered = sorted(items, key=lambda each: str(each[contract.SORT_KEY]["S"]), reverse=True)
    found = both(states["Read the nodes"]["Assign"]["ledger"], {"states": {"result": {"Items": ordered}}})
    assert isinstance(found, dict)
    return found


def run_receipt(states: Mapping[str, Any], *items: Mapping[str, Any], **variables: Any) -> dict[str, Any]:
    """Make out a run's receipt, with `VARIABLES` and *variables*."""
    given = {**VARIABLES, "ledger": read(states, *items), **variables}
    found = both(states["Make out the receipt"]["Assign"]["receipt"], given)
    assert isinstance(found, dict)
    validate_receipt(found)
    assert render_receipt(found)
    return found


def test_receipt_of_a_run_that_went_well(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """Every part of the time, every node, what it cost and what the same would have cost On-Demand."""
    # WHEN
    receipt = run_receipt(machines["workflow"], LEADER, WORKER, leads("i-0a"))
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
    # AND each node has its own time: the worker until it was released
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


def test_receipt_of_a_run_that_started_again(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """A lost node ends with its last sign of life; who was in both attempts is one row; the loss has its own time."""
    # GIVEN
    items = [
        item("i-0a", attempt=1, market="on-demand", joined_at=100, seen_at=300),
        item("i-0b", attempt=1, joined_at=100, seen_at=400),
        item("i-0b", attempt=2, joined_at=410, seen_at=1110),
        item("i-0c", attempt=2, market="on-demand", joined_at=500, seen_at=1118),
    ]
    # WHEN
    receipt = run_receipt(
        machines["workflow"],
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


def test_receipt_of_a_run_that_failed_in_training(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """Progress tells what the leader's answer cannot; a run with a ceiling tells it."""
    # GIVEN
    progress = {"step": 40, "ranks": 2, "resets": 0, "repeated_steps": 0, "loss": None, "trained_gpu_seconds": 700.5}
    told = {
        contract.SORT_KEY: {"S": contract.PROGRESS_SORT_KEY},
        contract.PROGRESS_JSON: {"S": json.dumps(progress)},
    }
    price = {"usd_per_hour": 4.32, "billed_from": epoch(12), "ceiling_usd": 5, "ceiling_at": epoch(4178)}
    # WHEN
    receipt = run_receipt(
        machines["workflow"],
        LEADER,
        WORKER,
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


def test_receipt_without_the_ledger_or_prices(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """What could not be read is left out; nothing is made up."""
    states = machines["workflow"]
    # WHEN the ledger could not be read; no price is known; nothing was ever started
    unread = run_receipt(states, ledger=evaluated(states["Read the nodes"]["Catch"][0]["Assign"]["ledger"]))
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
    assert {"cost", "on_demand_prices"} & unpriced.keys() == set()
    assert [node.get("usd") for node in unpriced["nodes"]] == [0.2124, None]
    assert refused["seconds"] == {"queue": 1}


def evaluated(value: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the expressions in an `Assign`."""
    return {
        name: evaluate(found, {}) if isinstance(found, str) and found.startswith("{%") else found
        for name, found in value.items()
    }


def test_receipt_in_place_of_a_stopped_run(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """The clean-up knows from the ledger when the nodes came, what they cost, and how far they were."""
    states = machines["clean-up"]
    progress = {"step": 9, "ranks": 2, "resets": 0, "repeated_steps": 1, "trained_gpu_seconds": 500}
    own = {
        contract.TIMES_JSON: {"S": json.dumps(times("started_at", "reserved_at", "asked_at", "ring_at"))},
        contract.PRICES_JSON: {"S": json.dumps(PRICES)},
        contract.RESTARTS_JSON: {"S": "[]"},
        contract.TTL_ATTRIBUTE: {"N": "1800000000"},
    }
    told = {contract.SORT_KEY: {"S": contract.PROGRESS_SORT_KEY}, contract.PROGRESS_JSON: {"S": json.dumps(progress)}}
    # WHEN
    execution = {
        "arn": ARN,
        "status": "ABORTED",
        "error": "StoppedByUser",
        "cause": "wrong data",
        "input": '{"gpus": 2}',
        "started_at": iso(0),
        "stopped_at": iso(1112),
    }
    variables = {"run": "digits-1", "fleet": {"id": "Fleet"}, "execution": execution}
    result = {"whole": {"Item": own}, "bare": {}}
    whole, bare_one = (
        both(
            states["Make out the receipt"]["Assign"]["receipt"],
            {
                **variables,
                "ledger": read(states, *items),
                "record": both(states["Read the record"]["Assign"]["record"], {"states": {"result": result[name]}}),
            },
        )
        for name, items in (("whole", (LEADER, WORKER, leads("i-0a"), told)), ("bare", ()))
    )
    # THEN
    for receipt in (whole, bare_one):
        validate_receipt(receipt)
        assert render_receipt(receipt)
    assert whole["on_demand_prices"] == [{"instance_type": "g5.xlarge", "usd_per_hour": 3.6, "source": "submitter"}]
    assert (whole["leader"], whole["attempts"], whole["ranks"], whole["steps"]) == ("i-0a", 1, 2, 9)
    assert whole["seconds"]["train"] == 1000
    assert whole["gpu_seconds"]["useful"] == 450
    assert whole["cost"]["usd"] == pytest.approx(0.2196 + 1.108)
    assert (bare_one["seconds"], "nodes" in bare_one) == ({"queue": 1112}, False)


def test_receipt_of_one_node_and_one_price(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """JSONata makes no difference between a list of one and the one; the receipt does."""
    # WHEN
    receipt = run_receipt(machines["workflow"], LEADER, prices=PRICES[2:])
    # THEN
    assert [node["node"] for node in receipt["nodes"]] == ["i-0a"]
    assert receipt["cost"]["usd"] == 1.108
    assert receipt["seconds"]["capacity"] == 30


def test_receipt_says_who_told_the_prices(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """The On-Demand price of each type that a node had, with its source; of other types there is no word."""
    # GIVEN
    others = [
        {"instance_type": "g5.2xlarge", "market": "on-demand", "zone": "", "usd": 4, "source": "construct"},
        {"instance_type": "g6.xlarge", "market": "on-demand", "zone": "", "usd": 2, "source": "price list"},
    ]
    node = {**WORKER, contract.INSTANCE_TYPE: {"S": "g5.2xlarge"}}
    # WHEN
    receipt = run_receipt(machines["workflow"], LEADER, node, prices=[*PRICES, *others])
    # THEN
    assert receipt["on_demand_prices"] == [
        {"instance_type": "g5.xlarge", "usd_per_hour": 3.6, "source": "submitter"},
        {"instance_type": "g5.2xlarge", "usd_per_hour": 4, "source": "construct"},
    ]
    row = receipt_schema()["properties"]["on_demand_prices"]["items"]["properties"]
    assert row["source"]["enum"] == [*contract.PRICE_SOURCES]
    assert [line for line in render_receipt(receipt).splitlines() if line.startswith("prices")] == [
        "prices      On-Demand, USD an hour, as the stack was given them: g5.2xlarge 4.00",
        "prices      On-Demand, USD an hour, as the client that submitted the run told them: g5.xlarge 3.60",
    ]


def test_receipt_of_a_large_ring_fits(machines: Mapping[str, Mapping[str, Any]]) -> None:
    """As many nodes as are read, and the prices of a long list of types, stay within what a state may hold."""
    # GIVEN
    states = machines["workflow"]
    most = states["Read the nodes"]["Arguments"]["Limit"]
    items = [item(f"i-{number:017x}", booted_at=52, joined_at=92, seen_at=1110) for number in range(most)]
    prices = [
        {"instance_type": f"g{kind}.48xlarge", "market": "spot", "zone": f"eu-west-1{zone}", "usd": 1}
        for kind in range(30)
        for zone in "abcdef"
    ]
    # WHEN
    ledger = bare(states["Read the nodes"]["Assign"]["ledger"])
    (found,) = by_reference([{"states": {"result": {"Items": items}}}], ledger)
    given = {**VARIABLES, "ledger": found, "prices": [*prices, *PRICES]}
    (receipt,) = by_reference([given], bare(states["Make out the receipt"]["Assign"]["receipt"]))
    # THEN
    assert len(receipt["nodes"]) == most
    assert max(len(json.dumps(value)) for value in (found, receipt, {"Items": items})) < 256 * 1024
