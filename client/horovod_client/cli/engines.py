"""`cdk-horovod engines`: what provides the nodes of a run, side by side."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Final

import click

from horovod_client.cli.error_messages import explain
from horovod_client.cli.options import debug_option, json_option, print_json, say
from horovod_client.text import amounts
from horovod_client.text.columns import in_columns

if TYPE_CHECKING:
    from horovod_client.engines.comparison import Comparison, EngineCosts, Question
    from horovod_client.prices.estimate import TypeEstimate
    from horovod_client.prices.fleet_prices import Prices

WIDTH: Final = 100
"""Most characters of a line; beyond it, cells and sentences are wrapped."""
NOTE: Final = "The receipt of a run has its times of capacity, boot, image pull and joining."


@click.command()
@click.option("--gpus", type=int, required=True, help="GPUs of a run.")
@click.option("--hours", type=float, default=1.0, show_default=True, help="Hours that its nodes run.")
@click.option(
    "--type",
    "types",
    multiple=True,
    default=("g5.12xlarge",),
    show_default=True,
    help="Instance type, by EC2's name; repeat it to compare several.",
)
@json_option
@debug_option
def engines(*, gpus: int, hours: float, types: tuple[str, ...], as_json: bool) -> None:
    """
    Compare all engines: prices, start-up, what each can and cannot, what it costs at rest, what you must own.

    Needs no stack. Without credentials, network or Region, prices are unknown.
    """
    # Imported here because they load botocore, which would slow down every other verb.
    from horovod_client.engines import ENGINES
    from horovod_client.engines.comparison import Question, compare

    question = Question(gpus=gpus, hours=hours, types=tuple(dict.fromkeys(types)))
    prices, region = _look_up(question)
    found = compare(ENGINES, question=question, prices=prices, region=region)
    if as_json:
        print_json(found.to_json())
    else:
        _tell(found)


def _look_up(question: Question) -> tuple[Prices, str | None]:
    """Look up prices; where AWS cannot be asked, a remark says why."""
    from horovod_client.aws.clients import AwsClients, new_session
    from horovod_client.aws.refusals import AwsError
    from horovod_client.engines import ENGINES
    from horovod_client.engines.comparison import look_up
    from horovod_client.prices.fleet_prices import Prices
    from horovod_client.prices.lookup import PriceLookup

    region = None
    try:
        session = new_session()
        region = session.region_name
        if region is None:
            return Prices(remarks=("prices are not known: set AWS_REGION to the Region of the nodes",)), None
        lookup = PriceLookup(region=region, clients=AwsClients(region=region, session=session))
        return look_up(ENGINES, types=question.types, lookup=lookup), region
    except AwsError as error:
        return Prices(remarks=(f"prices are not known: {explain(error)}",)), region


def _tell(found: Comparison) -> None:
    from horovod_client.engines.table import facts_table

    table = facts_table([each.facts for each in found.engines])
    none = [""] * (len(found.engines) + 1)
    rows = [["", *(each.facts.name for each in found.engines)]]
    for row, name in enumerate(found.question.types):
        rows += [
            none,
            [f"{name}, nodes", *(_nodes(each, row) for each in found.engines)],
            ["On-Demand USD", *(_on_demand(each, row) for each in found.engines)],
            ["Spot USD", *(_spot(each, row) for each in found.engines)],
        ]
    for part, facts in table.parts.items():
        rows += [none, [part, *none[1:]], *map(list, facts)]
    place = "" if found.region is None else f" in {found.region}"
    date = "no prices" if found.prices_from is None else f"prices of {amounts.moment(found.prices_from)}"
    wanted = f"{amounts.counted(found.question.gpus, 'GPU')} for {amounts.counted(found.question.hours, 'hour')}"
    say(f"{wanted}{place}; {date}\n")
    for line in in_columns(rows, width=WIDTH):
        say(line)
    say()
    for sentence in (*found.remarks, NOTE, *table.numbered_sources()):
        # Addresses and names of files stay in one piece.
        say(textwrap.fill(sentence, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))


def _nodes(engine: EngineCosts, row: int) -> str:
    kind = engine.types[row]
    return "has no such type" if kind is None else f"{kind.nodes} of {kind.instance_type}"


def _on_demand(engine: EngineCosts, row: int) -> str:
    kind = engine.types[row]
    return _dash_or_unknown(kind) if kind is None or kind.on_demand_usd is None else amounts.usd(kind.on_demand_usd)


def _spot(engine: EngineCosts, row: int) -> str:
    kind = engine.types[row]
    if kind is not None and not engine.facts.has_spot_prices:
        return engine.facts.spot_price.says
    if kind is None or kind.spot_usd is None:
        return _dash_or_unknown(kind)
    return amounts.usd_range(kind.spot_usd.least, kind.spot_usd.most)


def _dash_or_unknown(kind: TypeEstimate | None) -> str:
    return "-" if kind is None else "unknown"
