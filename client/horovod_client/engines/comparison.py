"""The engines side by side, with what so many GPUs cost for so many hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from horovod_client.engines.facts import Ability, EngineFacts, Fact
from horovod_client.engines.instance_types import gpus_of
from horovod_client.errors import InvalidInput
from horovod_client.prices.estimate import TypeEstimate, check_hours, estimate_type, rounded
from horovod_client.prices.fleet_prices import Prices
from horovod_client.prices.lookup import PriceLookup


@dataclass(frozen=True, kw_only=True)
class Question:
    """
    What is compared.

    Args:
        gpus: GPUs of the ring.
        hours: Hours that its nodes run.
        types: Instance types, by EC2's names; each is a ring of its own.

    Raises:
        InvalidInput: If no ring can be like this.
    """

    gpus: int
    hours: float
    types: tuple[str, ...]

    def __post_init__(self) -> None:
        check_hours(self.hours)
        for name in self.types:
            gpus = gpus_of(name)
            if self.gpus < 1 or self.gpus % gpus:
                raise InvalidInput(f"'--gpus' must be a multiple of {gpus}, the GPUs of {name}, got {self.gpus}")


@dataclass(frozen=True, kw_only=True)
class EngineCosts:
    """
    One engine, and its costs.

    Args:
        facts: The engine.
        types: Cost of a ring for each of the question's types; None where the engine has not the type.
    """

    facts: EngineFacts
    types: tuple[TypeEstimate | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Return engine and costs as JSON objects."""
        facts = {field.name: getattr(self.facts, field.name) for field in fields(self.facts)}
        return {
            "engine": self.facts.name,
            "types": [asdict(each) for each in self.types if each is not None],
            "facts": {name: asdict(fact) for name, fact in facts.items() if isinstance(fact, Fact | Ability)},
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """
    The engines side by side.

    Args:
        question: What is compared.
        engines: The engines with their costs.
        region: Region of the prices; None if it is not known.
        prices_from: Time of the oldest price, in epoch seconds; None without any price.
        remarks: Missing prices and their reasons: sentences for people.
    """

    question: Question
    engines: tuple[EngineCosts, ...]
    region: str | None
    prices_from: float | None
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON objects; amounts in USD with four digits."""
        document: dict[str, Any] = rounded(
            {
                "gpus": self.question.gpus,
                "hours": self.question.hours,
                "region": self.region,
                "prices_from": self.prices_from,
                "engines": [engine.to_json() for engine in self.engines],
                "remarks": list(self.remarks),
            }
        )
        return document


def look_up(engines: Sequence[EngineFacts], *, types: Sequence[str], lookup: PriceLookup) -> Prices:
    """
    Find what AWS publishes of the prices of *types* on all engines.

    Args:
        engines: The engines.
        types: Instance types, by EC2's names.
        lookup: Where prices are looked up.
    """
    with_spot_prices, others = (
        [
            name
            for engine in engines
            if engine.has_spot_prices is has_spot_prices
            for name in map(engine.type_name, types)
            if name is not None
        ]
        for has_spot_prices in (True, False)
    )
    both, on_demand = lookup.prices_of(with_spot_prices), lookup.on_demand_prices_of(others)
    return Prices(found=(*both.found, *on_demand.found), remarks=(*both.remarks, *on_demand.remarks))


def compare(
    engines: Sequence[EngineFacts], *, question: Question, prices: Prices, region: str | None = None
) -> Comparison:
    """
    Compare engines.

    Args:
        engines: The engines.
        question: What is compared.
        prices: Known prices; those that are missing are unknown in the comparison.
        region: Region of the prices. Default: it is not known.
    """
    return Comparison(
        question=question,
        engines=tuple(
            EngineCosts(facts=engine, types=tuple(_costs(engine, name, question, prices) for name in question.types))
            for engine in engines
        ),
        region=region,
        prices_from=prices.told_at,
        remarks=prices.remarks,
    )


def _costs(engine: EngineFacts, instance_type: str, question: Question, prices: Prices) -> TypeEstimate | None:
    name = engine.type_name(instance_type)
    if name is None:
        return None
    return estimate_type(name, gpus_of(instance_type), gpus=question.gpus, hours=question.hours, prices=prices)
