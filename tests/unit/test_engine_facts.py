"""The facts about engines: they are complete, agree with the constructs, and are what the documentation shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from cdk_horovod import Engine
from cdk_horovod.engines.sagemaker import NOT_OF_SAGEMAKER
from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES
from horovod_client.engines import ENGINES
from horovod_client.engines.comparison import Question, compare
from horovod_client.engines.facts import Ability, Fact
from horovod_client.engines.instance_types import GPUS
from horovod_client.engines.sagemaker import SAGEMAKER
from horovod_client.engines.table import ABILITIES, NEEDS, PARTS, PRICES, START_UP, as_markdown, facts_table
from horovod_client.errors import InvalidInput
from horovod_client.prices.estimate import UsdRange
from horovod_client.prices.fleet_prices import Price, Prices
from support.synthesis import REPOSITORY

BEGIN = (
    "<!-- engines: tests/unit/test_engine_facts.py compares this table with horovod_client.engines; "
    "`make snapshots` writes it. -->\n"
)
END = "<!-- engines end -->"
QUESTION = Question(gpus=16, hours=3, types=("g5.12xlarge", "gr6.4xlarge"))
PRICE_ROWS = Prices(
    found=tuple(
        Price(instance_type=kind, market=market, zone=zone, usd=usd, at=1_000.0)
        for kind, market, zone, usd in (
            ("g5.12xlarge", "on-demand", "", 6.0),
            ("g5.12xlarge", "spot", "eu-west-1a", 3.0),
            ("g5.12xlarge", "spot", "eu-west-1b", 2.0),
            ("ml.g5.12xlarge", "on-demand", "", 7.5),
        )
    ),
    remarks=("the Spot price is old",),
)


def test_every_engine_of_the_library_has_facts() -> None:
    """The client describes each engine that the constructs offer, by its name; `first_available` is made of others."""
    library = {name for name in vars(Engine) if not name.startswith("_")} - {"first_available"}
    assert library == {engine.name for engine in ENGINES}


def test_gpus_are_those_of_the_constructs() -> None:
    """The client counts the GPUs of a type as a fleet does, and knows which types SageMaker has not."""
    assert {name: row.gpus for name, row in GPU_INSTANCE_TYPES.items()} == GPUS
    assert SAGEMAKER.lacking_types == NOT_OF_SAGEMAKER


def test_every_property_is_shown() -> None:
    """The table has a row for each property of an engine, and no property twice."""
    # GIVEN
    (engine, *_) = ENGINES
    properties = [name for name, value in vars(engine).items() if isinstance(value, Fact | Ability)]
    # WHEN
    shown = [name for part in PARTS.values() for name in part]
    # THEN
    assert sorted(shown) == sorted(properties)


def test_every_figure_has_a_source() -> None:
    """A property with a figure in it says where the figure is from."""
    facts = [(engine.name, getattr(engine, field.name)) for engine in ENGINES for field in fields(engine)]
    bare = [
        (name, fact.says)
        for name, fact in facts
        # The digit of EC2 is no figure.
        if isinstance(fact, Fact | Ability) and re.search(r"(?<!\w)\d", fact.says) and not fact.source
    ]
    assert bare == []


def test_compares_costs() -> None:
    """Each engine has the cost of its own types; what AWS publishes nowhere, or the engine has not, is not there."""
    # WHEN
    found = compare(ENGINES, question=QUESTION, prices=PRICE_ROWS, region="eu-west-1")
    # THEN
    costs = {
        engine.facts.name: [kind and (kind.instance_type, kind.nodes, kind.on_demand_usd) for kind in engine.types]
        for engine in found.engines
    }
    on_ec2 = [("g5.12xlarge", 4, 72.0), ("gr6.4xlarge", 16, None)]
    assert costs == {"ec2": on_ec2, "ecs": on_ec2, "sagemaker": [("ml.g5.12xlarge", 4, 90.0), None]}
    spot = {engine.facts.name: engine.types[0] and engine.types[0].spot_usd for engine in found.engines}
    assert spot == {"ec2": UsdRange(least=24, most=36), "ecs": UsdRange(least=24, most=36), "sagemaker": None}
    assert (found.prices_from, found.remarks) == (1_000.0, ("the Spot price is old",))


def test_another_engine_is_one_more_value() -> None:
    """An engine that is added has a column in the table and costs in the comparison."""
    # GIVEN
    another = replace(SAGEMAKER, name="another", type_prefix="an.")
    # WHEN
    table = facts_table([*ENGINES, another])
    found = compare([another], question=QUESTION, prices=PRICE_ROWS)
    # THEN
    assert {len(row) for rows in table.parts.values() for row in rows} == {len(ENGINES) + 2}
    assert [kind and kind.instance_type for kind in found.engines[0].types] == ["an.g5.12xlarge", None]


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ({"gpus": 6}, "'--gpus' must be a multiple of 4, the GPUs of g5.12xlarge, got 6"),
        ({"gpus": 0}, "'--gpus' must be a multiple of 4, the GPUs of g5.12xlarge, got 0"),
        ({"hours": float("nan")}, "'hours' must be more than 0, got nan"),
        (
            {"types": ("ml.g5.xlarge",)},
            "'--type' must be a GPU type of EC2 that runs can use, such as g5.xlarge, got ml.g5.xlarge",
        ),
        (
            {"types": ("u-3tb1.metal",)},
            "'--type' must be a GPU type of EC2 that runs can use, such as g5.12xlarge, got u-3tb1.metal",
        ),
    ],
)
def test_refuses_a_question_without_an_answer(question: dict[str, Any], says: str) -> None:
    """A ring that no engine can have is refused in one sentence."""
    with pytest.raises(InvalidInput) as refused:
        Question(**{"gpus": 16, "hours": 1, "types": ("g5.12xlarge",), **question})
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("page", "parts"), [("README.md", (PRICES, ABILITIES, NEEDS)), ("docs/engines.md", (START_UP,))]
)
def test_pages_show_these_facts(page: str, parts: Sequence[str], request: pytest.FixtureRequest) -> None:
    """The tables of engines in README and documentation are written from the facts (`make snapshots`)."""
    # GIVEN the table between its two comments
    path = REPOSITORY / page
    before, begin, rest = path.read_text().partition(BEGIN)
    shown, end, after = rest.partition(END)
    assert (begin, end) == (BEGIN, END)
    # WHEN
    written = f"\n{as_markdown(ENGINES, parts=parts)}\n\n"
    if request.config.getoption("--update-snapshots"):
        path.write_text("".join((before, begin, written, end, after)))
        shown = written
    # THEN
    assert shown == written, f"{page} shows other facts: review them, then run `make snapshots`"
