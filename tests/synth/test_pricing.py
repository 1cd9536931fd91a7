"""What nodes and a ring cost: the state machine's expressions, evaluated by the reference JSONata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk.assertions import Template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdk_horovod.asl.resolved import resolved_definitions
from cdk_horovod.workflow.price_lookup import look_up_prices
from horovod_local.corrections.step_functions.jsonata import evaluate
from horovod_local.shared.price_list import get_products
from horovod_node import contract
from support.asl import bare, by_reference

pytestmark = pytest.mark.synth

GIVEN = {"g5.xlarge": 1.0, "g5.12xlarge": 6.25}
"""What the construct was given, in USD an hour."""
ASKED_AT, ASKED_AT_EPOCH = "2026-03-01T12:00:00.250Z", 1_772_366_400
"""When the nodes were asked for; their bill begins with that second."""

Case = Mapping[str, Any]
"""Variables of an expression, by name without the `$`."""


def definition_for(*types: str) -> Mapping[str, Any]:
    """The machine that looks up the prices of *types*, as it is deployed."""
    stack = Stack(App(), "Prices")
    then = sfn.Succeed.jsonata(stack, "Train")
    first = look_up_prices(stack, types=types, on_demand_prices=GIVEN, then=then)
    sfn.StateMachine(
        stack,
        "Machine",
        query_language=sfn.QueryLanguage.JSONATA,
        definition_body=sfn.DefinitionBody.from_chainable(sfn.Chain.start(first)),
    )
    (definition,) = resolved_definitions(Template.from_stack(stack).to_json()).values()
    found: Mapping[str, Any] = definition
    return found


@pytest.fixture(scope="module")
def states() -> Mapping[str, Any]:
    """The states that look up the prices of EC2's types."""
    found: Mapping[str, Any] = definition_for("g5.xlarge", "g5.12xlarge")["States"]
    return found


def test_sagemakers_types_have_prices_of_their_own() -> None:
    """EC2 is not asked for SageMaker's types, and the Price List is asked for the price of training jobs."""
    # WHEN
    machine = definition_for("ml.g5.xlarge")
    # THEN
    assert machine["StartAt"] == "Look up On-Demand prices"
    ask = machine["States"]["Look up On-Demand prices"]["ItemProcessor"]["States"]["Look up SageMaker's type"]
    assert ask["Arguments"]["ServiceCode"] == "AmazonSageMaker"
    assert {each["Field"]: each["Value"] for each in ask["Arguments"]["Filters"]} == {
        "instanceName": "{% $states.input.type %}",
        "regionCode": "${AWS::Region}",
        "component": "Training",
    }


def test_types_of_both_are_told_apart() -> None:
    """A fleet of EC2's types has its Spot prices looked up, and each type is looked up where it is listed."""
    mixed = definition_for("g5.xlarge", "ml.g5.xlarge")
    first = mixed["States"][mixed["StartAt"]]
    whose = mixed["States"]["Look up On-Demand prices"]["ItemProcessor"]["States"]["Whose price?"]
    # WHEN
    fleets = [{"fleet": {"types": types}} for types in (["g5.xlarge"], ["ml.g5.xlarge"], ["ml.g5.xlarge", "g5.xlarge"])]
    asked = by_reference(fleets, bare(first["Choices"][0]["Condition"]))
    types = by_reference(fleets, bare(mixed["States"]["Look up Spot prices"]["Arguments"]["InstanceTypes"]))
    sagemakers = by_reference(
        [{"states": {"input": {"type": name}}} for name in ("g5.xlarge", "ml.g5.xlarge")],
        bare(whose["Choices"][0]["Condition"]),
    )
    # THEN
    assert asked == [True, False, True]
    assert types == [["g5.xlarge"], [], ["g5.xlarge"]]
    assert sagemakers == [False, True]


@pytest.fixture(scope="module")
def price(definition: Mapping[str, Any]) -> str:
    """The expression of `$price`."""
    return bare(definition["States"]["Wait for the ring"]["Assign"]["price"])


def node(instance_type: str, market: str = contract.ON_DEMAND, zone: str = "eu-west-1a") -> dict[str, str]:
    """Describe one node of a ring."""
    return {contract.INSTANCE_TYPE: instance_type, contract.MARKET: market, contract.ZONE: zone}


def spot_price(instance_type: str, zone: str, usd: float) -> dict[str, Any]:
    """Write one row of `$prices`."""
    return {"instance_type": instance_type, "market": contract.SPOT, "zone": zone, "usd": usd}


def list_price(instance_type: str, usd: float, source: str = contract.PRICE_OF_LIST) -> dict[str, Any]:
    """Write one row of `$prices` for On-Demand."""
    return {"instance_type": instance_type, "market": contract.ON_DEMAND, "zone": "", "usd": usd, "source": source}


def case(
    *nodes: Mapping[str, str],
    spot: Sequence[Mapping[str, Any]] = (),
    ceiling: float = 10,
    gpus: tuple[int, int] = (4, 4),
    before: float = 0,
    **listed: float,
) -> Case:
    """
    Give the variables that the price of a ring depends on.

    Args:
        nodes: The ring.
        spot: What EC2 told of Spot.
        ceiling: Of the request.
        gpus: Those of the ring, and those of the request.
        before: What the ring of the attempt before cost an hour.
        listed: What On-Demand costs beside what was given.
    """
    on_demand = {**{name.replace("_", "."): usd for name, usd in listed.items()}, **GIVEN}
    return {
        "states": {"result": {contract.NODES: list(nodes), contract.GPUS: gpus[0]}},
        "price": {contract.USD_PER_HOUR: before},
        "prices": [*spot, *(list_price(name, usd) for name, usd in on_demand.items())],
        "request": {contract.MAX_COST_USD: ceiling, contract.GPUS: gpus[1]},
        "times": {"asked_at": ASKED_AT},
    }


def known(total: float, *, ceiling: float = 10) -> dict[str, Any]:
    """What is written down when every price is known."""
    return {
        contract.USD_PER_HOUR: total,
        contract.BILLED_FROM: ASKED_AT_EPOCH,
        contract.CEILING_USD: ceiling,
        contract.CEILING_AT: ASKED_AT_EPOCH + math.floor(ceiling / total * 3600),
    }


def unknown(*types: str, ceiling: float = 10) -> dict[str, Any]:
    """What is written down when prices of *types* are missing."""
    return {
        contract.USD_PER_HOUR: 0,
        contract.CEILING_AT: 0,
        contract.NOTICE: (
            f"The ceiling of {ceiling} USD is not watched: no price is known for {', '.join(types)}. "
            "Only the time limit holds."
        ),
    }


SPOT_PRICES = [
    spot_price("g5.xlarge", "eu-west-1a", 0.25),
    spot_price("g5.xlarge", "eu-west-1b", 0.5),
    spot_price("g5.2xlarge", "eu-west-1b", 0.75),
]
CASES: dict[str, tuple[Case, dict[str, Any]]] = {
    "one node": (case(node("g5.xlarge")), known(1)),
    "markets, zones and types": (
        case(
            node("g5.xlarge"),
            node("g5.xlarge", contract.SPOT, "eu-west-1a"),
            node("g5.xlarge", contract.SPOT, "eu-west-1b"),
            node("g5.2xlarge", contract.SPOT, "eu-west-1b"),
            node("g5.2xlarge"),
            spot=SPOT_PRICES,
            g5_2xlarge=1.5,
        ),
        known(1 + 0.25 + 0.5 + 0.75 + 1.5),
    ),
    "On-Demand pays no Spot price": (case(node("g5.xlarge"), spot=SPOT_PRICES), known(1)),
    "a Spot node without a Spot price costs what On-Demand does": (
        case(node("g5.xlarge", contract.SPOT, "eu-west-1c"), node("g6.xlarge", contract.SPOT), g6_xlarge=0.75),
        known(1.75),
    ),
    "a ring that may grow to twice its size": (case(node("g5.xlarge"), gpus=(1, 2)), known(2)),
    "a ring that is larger than it was asked for": (case(node("g5.12xlarge"), gpus=(4, 2)), known(3.125)),
    "the ring before was dearer": (case(node("g5.xlarge"), before=2.5), known(2.5)),
    "the ring before was cheaper": (case(node("g5.xlarge"), before=0.5), known(1)),
    "a ceiling of cents": (case(node("g5.xlarge"), ceiling=0.015), known(1, ceiling=0.015)),
    "one missing": (case(node("g5.xlarge"), node("g6.xlarge")), unknown("g6.xlarge")),
    "each missing type once": (
        case(node("g6.xlarge"), node("g6e.xlarge"), node("g5.xlarge"), node("g6.xlarge", contract.SPOT), ceiling=2.5),
        unknown("g6.xlarge", "g6e.xlarge", ceiling=2.5),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_price_of_a_ring(price: str, name: str) -> None:
    """A ring's price is the sum of its nodes' prices, with the time of its ceiling, or the list of missing prices."""
    # GIVEN
    variables, expected = CASES[name]
    # WHEN
    (found,) = by_reference([variables], price)
    # THEN the local cloud says so, too
    assert found == expected
    assert evaluate(price, variables) == expected


def test_ring_without_a_ceiling_has_no_price(price: str) -> None:
    """A ring without a ceiling has no price, and nothing is recorded."""
    variables = case(node("g6.xlarge"))
    variables = {**variables, "request": {contract.GPUS: 4}}
    assert by_reference([variables], price) == [{contract.USD_PER_HOUR: 0, contract.CEILING_AT: 0}]


@pytest.mark.parametrize(
    "priced",
    [known(2.5), unknown("g6.xlarge"), {contract.USD_PER_HOUR: 0, contract.CEILING_AT: 0}],
    ids=["known", "unknown", "none"],
)
def test_price_is_written_with_the_question_for_the_training(
    definition: Mapping[str, Any], priced: Mapping[str, Any]
) -> None:
    """The run's item holds this ring's price, or why it is unknown, and nothing of the ring before."""
    # GIVEN
    (_, write) = definition["States"]["Train"]["Arguments"]["TransactItems"]
    variables = {"price": priced, "times": {"asked_at": ASKED_AT}}
    # WHEN
    (update,) = by_reference([variables], bare(write["Update"]["UpdateExpression"]))
    (values,) = by_reference([variables], bare(write["Update"]["ExpressionAttributeValues"]))
    # THEN the local cloud says so, too
    assert evaluate(bare(write["Update"]["UpdateExpression"]), variables) == update
    assert evaluate(bare(write["Update"]["ExpressionAttributeValues"]), variables) == values
    sets, removes = update.removeprefix("SET ").split(" REMOVE ")
    written = [assignment.split(" = ")[0].removeprefix("#") for assignment in sets.split(", ")]
    told = {name: value for name, value in priced.items() if value}
    assert written == [contract.STAGE, contract.TIMES_JSON, *sorted(told, key=written.index)]
    assert {f"#{name}" for name in written} | set(removes.split(", ")) == set(
        write["Update"]["ExpressionAttributeNames"]
    )
    assert values == {
        f":{contract.STAGE}": {"S": contract.STAGE_TRAINING},
        f":{contract.TIMES_JSON}": {"S": json.dumps(variables["times"], separators=(",", ":"))},
        **{f":{name}": {"S": value} if name == contract.NOTICE else {"N": str(value)} for name, value in told.items()},
    }


types = st.sampled_from(["g5.xlarge", "g5.12xlarge", "g6.xlarge", "g6e.xlarge"])
zones = st.sampled_from(["eu-west-1a", "eu-west-1b"])
# Eighths of a dollar: their sums are the same in whatever order they are added.
usd = st.integers(1, 800).map(lambda eighths: eighths / 8)
rings = st.builds(
    lambda nodes, prices, listed, ceiling: case(
        *nodes,
        spot=[spot_price(name, zone, usd) for (name, zone), usd in prices.items()],
        ceiling=ceiling,
        **{name.replace(".", "_"): usd for name, usd in listed.items()},
    ),
    st.lists(st.builds(node, types, st.sampled_from(contract.MARKETS), zones), min_size=1, max_size=6),
    st.dictionaries(st.tuples(types, zones), usd),
    st.dictionaries(types, usd),
    usd,
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases=st.lists(rings, min_size=40, max_size=50))
def test_price_of_any_ring(price: str, cases: list[Case]) -> None:
    """For any nodes and any known prices, the sum is that of plain arithmetic."""
    assert by_reference(cases, price) == [expected(each) for each in cases]


def expected(variables: Case) -> dict[str, Any]:
    """Work out `$price` in Python."""
    rows = variables["prices"]
    spots = {(row["instance_type"], row["zone"]): row["usd"] for row in rows if row["market"] == contract.SPOT}
    on_demand = {row["instance_type"]: row["usd"] for row in rows if row["market"] == contract.ON_DEMAND}
    usd, missing = 0.0, []
    for each in variables["states"]["result"][contract.NODES]:
        kind = each[contract.INSTANCE_TYPE]
        spot = {zone: usd for (name, zone), usd in spots.items() if name == kind}
        own = None
        if spot and each[contract.MARKET] == contract.SPOT:
            # A zone without a price is as dear as the dearest one.
            own = spot.get(each[contract.ZONE], max(spot.values()))
        cost = own or on_demand.get(kind, 0)
        if not cost:
            missing.append(kind)
        usd += cost
    ceiling = variables["request"][contract.MAX_COST_USD]
    if not missing:
        return known(usd, ceiling=ceiling)
    return unknown(*dict.fromkeys(missing), ceiling=int(ceiling) if ceiling % 1 == 0 else ceiling)


def test_price_list_is_asked_for_what_was_not_given(states: Mapping[str, Any]) -> None:
    """The Price List is asked once for each type whose price the construct was not given."""
    # GIVEN
    items = bare(states["Look up On-Demand prices"]["Items"]).replace("${AWS::Region}", "eu-central-1")
    fleets = [["g6.xlarge", "g5.xlarge", "g6e.xlarge"], ["g6.xlarge"], ["g5.xlarge", "g5.12xlarge"]]
    # WHEN
    asked = by_reference([{"fleet": {"types": types}} for types in fleets], items)
    # THEN
    assert asked == [[{"type": "g6.xlarge"}, {"type": "g6e.xlarge"}], [{"type": "g6.xlarge"}], []]


def test_nobody_is_asked_where_nobody_answers(states: Mapping[str, Any]) -> None:
    """The Price List is not asked in a Region where it has no endpoint."""
    # GIVEN
    items = bare(states["Look up On-Demand prices"]["Items"]).replace("${AWS::Region}", "us-west-2")
    variables = {"fleet": {"types": ["g6.xlarge", "g6e.xlarge"]}}
    # WHEN
    (asked,) = by_reference([variables], items)
    # THEN the local cloud says so, too
    assert asked == evaluate(items, variables) == []


def test_on_demand_price_is_read_out_of_the_product(states: Mapping[str, Any]) -> None:
    """The On-Demand price is read from the product's JSON text; a type that the list lacks has none."""
    # GIVEN the deployed question, for a type that is listed and for one that is not
    look = states["Look up On-Demand prices"]["ItemProcessor"]["States"]["Look up the type"]
    answers = []
    for name in ("g6.xlarge", "g6e.xlarge"):
        wanted = {entry["Field"]: entry["Value"] for entry in look["Arguments"]["Filters"]}
        wanted |= {"instanceType": name, "regionCode": "eu-central-1"}
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        answers.append(get_products({**look["Arguments"], "Filters": filters}))
    # WHEN
    found = by_reference([{"states": {"result": answer}} for answer in answers], bare(look["Output"]["usd"]))
    # THEN
    assert found == [0.8048, 0]


@pytest.mark.parametrize("types", [["g5.xlarge"], ["g6e.xlarge", "g5.12xlarge", "g6.xlarge"]], ids=len)
def test_prices_are_those_of_every_type_and_zone(states: Mapping[str, Any], types: list[str]) -> None:
    """Each known price is one row: of a type and zone for Spot, of a type for On-Demand."""
    # GIVEN what EC2 and the Price List answer; a price that was given counts before one that is listed
    spot = [("g5.xlarge", "eu-west-1a", "0.250000"), ("g5.xlarge", "eu-west-1b", "0.5")]
    history = [{"InstanceType": kind, "AvailabilityZone": zone, "SpotPrice": usd} for kind, zone, usd in spot]
    listed = [{"type": "g6.xlarge", "usd": 0.75}, {"type": "g5.xlarge", "usd": 4}, {"type": "unknown", "usd": 0}]
    looked = bare(states["Look up Spot prices"]["Assign"]["prices"])
    added = bare(states["Look up On-Demand prices"]["Assign"]["prices"])
    first = {"states": {"result": {"SpotPriceHistory": history}}}
    # WHEN
    (found,) = by_reference([first], looked)
    second = {"prices": found, "fleet": {"types": types}, "states": {"result": listed}, "request": {}}
    (prices,) = by_reference([second], added)
    # THEN the local cloud says so, too
    assert prices == [
        *(spot_price(kind, zone, float(usd)) for kind, zone, usd in spot),
        *(
            list_price(name, GIVEN[name], contract.PRICE_OF_CONSTRUCT)
            if name in GIVEN
            else list_price(name, 0.75, contract.PRICE_OF_LIST)
            for name in types
            if name != "g6e.xlarge"
        ),
    ]
    assert (evaluate(looked, first), evaluate(added, second)) == (found, prices)
    # AND without any answer there are none
    nothing: dict[str, Any] = {"states": {"result": {"SpotPriceHistory": []}}}
    assert by_reference([nothing], looked) == [evaluate(looked, nothing)] == [[]]


LISTED = [{"type": "g6.xlarge", "usd": 0.75}]
"""What the Price List answers, where there is one."""
BROUGHT = {"g5.xlarge": 7, "g6.xlarge": 7, "g6e.xlarge": 1.5}
"""What a request brings along."""
BROUGHT_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "where nobody else knows it": (
        {"types": ["g6e.xlarge"], "request": BROUGHT},
        list_price("g6e.xlarge", 1.5, contract.PRICE_OF_SUBMITTER),
    ),
    "not before the construct's": (
        {"types": ["g5.xlarge"], "request": BROUGHT},
        list_price("g5.xlarge", 1, contract.PRICE_OF_CONSTRUCT),
    ),
    "not before the list's": (
        {"types": ["g6.xlarge"], "request": BROUGHT, "listed": LISTED},
        list_price("g6.xlarge", 0.75, contract.PRICE_OF_LIST),
    ),
    "but if the list does not answer": (
        {"types": ["g6.xlarge"], "request": BROUGHT, "listed": [{"type": "unknown", "usd": 0}]},
        list_price("g6.xlarge", 7, contract.PRICE_OF_SUBMITTER),
    ),
    "never below Spot": (
        {
            "types": ["g6e.xlarge"],
            "request": {"g6e.xlarge": 0.001},
            "spot": [
                spot_price("g6e.xlarge", "eu-west-1a", 0.5),
                spot_price("g6e.xlarge", "eu-west-1b", 0.625),
                spot_price("g6.xlarge", "eu-west-1a", 9),
            ],
        },
        list_price("g6e.xlarge", 0.625, contract.PRICE_OF_SUBMITTER),
    ),
    "above Spot": (
        {
            "types": ["g6e.xlarge"],
            "request": BROUGHT,
            "spot": [spot_price("g6e.xlarge", "eu-west-1a", 0.5)],
        },
        list_price("g6e.xlarge", 1.5, contract.PRICE_OF_SUBMITTER),
    ),
}


@pytest.mark.parametrize("name", BROUGHT_CASES)
def test_price_that_the_request_brings_counts(states: Mapping[str, Any], name: str) -> None:
    """A request's price counts where no other is known, and never below EC2's Spot price."""
    # GIVEN
    facts, expected = BROUGHT_CASES[name]
    spot = facts.get("spot", [])
    variables = {
        "prices": spot,
        "fleet": {"types": facts["types"]},
        "request": {contract.ON_DEMAND_PRICES: facts["request"]},
        "states": {"result": facts.get("listed", [])},
    }
    added = bare(states["Look up On-Demand prices"]["Assign"]["prices"])
    # WHEN
    (prices,) = by_reference([variables], added)
    # THEN the local cloud says so, too
    assert prices == evaluate(added, variables) == [*spot, expected]
