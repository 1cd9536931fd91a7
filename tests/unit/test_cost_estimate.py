"""The estimate of what a run would cost, with prices that the test sets."""

from __future__ import annotations

import json

import pytest

from horovod_client import Fleet, InvalidInput, PricesUnknown, UsdRange
from horovod_client.prices.estimate import NOTE, estimate
from horovod_client.prices.fleet_prices import Price, Prices
from support.fake_account import connection_to

CONNECTION = connection_to(
    Fleet(id="Small", max_gpus=4, gpu_step=1, types={"g5.xlarge": 1}),
    Fleet(id="Large", max_gpus=16, gpu_step=4, types={"g5.12xlarge": 4, "g5.48xlarge": 8}),
    max_cost_usd=100,
)


def prices(*rows: tuple[str, str, str, float]) -> Prices:
    return Prices(
        found=tuple(
            Price(instance_type=kind, market=market, zone=zone, usd=usd, at=1_000.0) for kind, market, zone, usd in rows
        )
    )


PRICES = prices(
    ("g5.12xlarge", "on-demand", "", 6.0),
    ("g5.12xlarge", "spot", "eu-west-1a", 3.0),
    ("g5.12xlarge", "spot", "eu-west-1b", 2.0),
    ("g5.48xlarge", "on-demand", "", 16.0),
)


def test_estimates_each_type_of_the_fleets_that_fit() -> None:
    """Sixteen GPUs fit one of two fleets: four nodes of one type or two of the other, the cheaper first."""
    # WHEN
    found = estimate(CONNECTION, gpus=16, hours=3, prices=PRICES)
    # THEN
    (fleet,) = found.fleets
    small, large = fleet.types
    assert (fleet.fleet, small.instance_type, small.nodes, large.instance_type, large.nodes) == (
        "Large",
        "g5.12xlarge",
        4,
        "g5.48xlarge",
        2,
    )
    assert (small.on_demand_usd_per_hour, small.on_demand_usd) == (24.0, 72.0)
    assert (small.spot_usd_per_hour, small.spot_usd) == (UsdRange(least=8, most=12), UsdRange(least=24, most=36))
    assert small.saved_usd == UsdRange(least=36, most=48)
    assert (large.on_demand_usd, large.spot_usd, large.saved_usd) == (96.0, None, None)
    assert (found.region, found.prices_from, found.remarks) == ("eu-west-1", 1_000.0, (NOTE,))


def test_counts_whole_nodes() -> None:
    """Four GPUs of a type that has eight cost a whole node."""
    # WHEN
    found = estimate(CONNECTION, gpus=4, hours=1, prices=PRICES)
    # THEN
    sizes = {kind.instance_type: (kind.nodes, kind.gpus) for fleet in found.fleets for kind in fleet.types}
    assert sizes == {"g5.xlarge": (4, 4), "g5.12xlarge": (1, 4), "g5.48xlarge": (1, 8)}


def test_tells_which_limits_end_the_run_sooner() -> None:
    """The ceiling and the longest time of the training are compared with the estimate."""
    # WHEN
    found = estimate(CONNECTION, gpus=16, hours=12, prices=PRICES)
    # THEN
    assert found.remarks == (
        "The training's ceiling of 100.00 USD may stop the run before these 12 hours.",
        "The training limits a run to 10 hours, less than these 12.",
        NOTE,
    )


def test_is_json() -> None:
    """Programs get the same numbers, with unknown ones as null."""
    # WHEN
    found = json.loads(json.dumps(estimate(CONNECTION, gpus=16, hours=3, prices=PRICES).to_json()))
    # THEN
    small, large = found["fleets"][0]["types"]
    assert small["spot_usd"] == {"least": 24.0, "most": 36.0}
    assert large["spot_usd"] is None


@pytest.mark.parametrize(
    ("gpus", "hours", "says"),
    [
        (6, 1, "'gpus' must be a multiple of 1 up to 4 or a multiple of 4 up to 16, got 6"),
        (0, 1, "'gpus' must be a multiple of 1 up to 4 or a multiple of 4 up to 16, got 0"),
        (4, 0, "'hours' must be more than 0, got 0"),
        (4, float("nan"), "'hours' must be more than 0, got nan"),
    ],
)
def test_refuses_what_cannot_run(gpus: int, hours: float, says: str) -> None:
    """An estimate refuses what a run would refuse, in one sentence."""
    with pytest.raises(InvalidInput) as refused:
        estimate(CONNECTION, gpus=gpus, hours=hours, prices=PRICES)
    assert str(refused.value) == says


def test_says_that_there_are_no_prices() -> None:
    """Without any price the estimate fails, and the error gives the reasons."""
    with pytest.raises(PricesUnknown) as refused:
        estimate(CONNECTION, gpus=4, hours=1, prices=Prices(found=(), remarks=("the network is down",)))
    assert str(refused.value) == "there are no prices for an estimate: the network is down"
