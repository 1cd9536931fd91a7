"""The engines as columns and their properties as rows, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from horovod_client.engines.facts import Ability, EngineFacts, Fact

PRICES: Final = "Nodes and prices"
START_UP: Final = "Start-up"
ABILITIES: Final = "Abilities"
NEEDS: Final = "Needs"
PARTS: Final[Mapping[str, Mapping[str, str]]] = {
    PRICES: {
        "nodes": "node",
        "on_demand_price": "On-Demand price",
        "spot_price": "Spot price",
        "billed": "billed",
    },
    START_UP: {
        "capacity": "capacity",
        "boot": "boot",
        "placement": "placement",
        "image_pull": "image pull",
        "joining": "joining",
    },
    ABILITIES: {
        "elastic": "elastic ring",
        "mixed_markets": "Spot and On-Demand in a ring",
        "mixed_types": "several types in a ring",
        "replacement": "a lost node is replaced",
        "spot_notice": "Spot notice",
        "efa": "EFA",
        "early_release": "workers end before the upload",
        "dead_mans_switch": "dead-man's switch",
    },
    NEEDS: {"at_rest": "cost at rest", "to_own": "to own", "quotas": "quotas"},
}
"""Every property that is shown, with its label: the fields of `EngineFacts`, in parts with a heading."""


@dataclass(frozen=True, kw_only=True)
class FactsTable:
    """
    Properties of engines.

    Args:
        parts: Rows by the heading of their part; a row is a label and one cell for each engine.
        sources: The sources that cells refer to by number, from 1 on.
    """

    parts: Mapping[str, Sequence[tuple[str, ...]]]
    sources: tuple[str, ...]

    def numbered_sources(self) -> list[str]:
        """List the sources, each with its number."""
        return [f"[{number}] {source}" for number, source in enumerate(self.sources, start=1)]


def facts_table(engines: Sequence[EngineFacts], *, parts: Sequence[str] = tuple(PARTS)) -> FactsTable:
    """
    Put properties of engines into rows.

    Args:
        engines: The engines, one for each column.
        parts: Headings of the parts that are shown. Default: all.
    """
    sources: list[str] = []

    def cell(fact: Fact | Ability) -> str:
        if not fact.source:
            return fact.says
        if fact.source not in sources:
            sources.append(fact.source)
        return f"{fact.says} [{sources.index(fact.source) + 1}]"

    rows = {
        part: [(label, *(cell(getattr(engine, name)) for engine in engines)) for name, label in PARTS[part].items()]
        for part in parts
    }
    return FactsTable(parts=rows, sources=tuple(sources))


def as_markdown(engines: Sequence[EngineFacts], *, parts: Sequence[str]) -> str:
    """
    Write properties of engines as a table in Markdown, followed by its sources.

    Args:
        engines: The engines, one for each column.
        parts: Headings of the parts that are shown; a single one needs no heading in the table.
    """
    table = facts_table(engines, parts=parts)
    lines = [_markdown_row("", *(f"`{engine.name}`" for engine in engines)), "|---" * (len(engines) + 1) + "|"]
    for part, rows in table.parts.items():
        if len(table.parts) > 1:
            lines.append(_markdown_row(f"**{part}**", *("" for _ in engines)))
        lines += [_markdown_row(*row) for row in rows]
    if table.sources:
        lines += ["", "Sources:", "", *(f"- {source}" for source in table.numbered_sources())]
    return "\n".join(lines)


def _markdown_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
