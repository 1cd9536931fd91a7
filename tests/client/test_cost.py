"""`cdk-horovod cost`: before a run, while it runs, and afterwards."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from horovod_client import TrainingClient
from horovod_client.cli import main
from horovod_client.prices.cache import CachedPrices, PriceCache
from horovod_node import contract
from support.fake_account import STACK, Account

WriteReceipt = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, account: Account) -> None:  # noqa: ARG001 - must be there
    """Name the stack once, and give the user a cache folder of this test's own."""
    monkeypatch.setenv("CDK_HOROVOD_STACK", STACK)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_estimates_with_the_prices_of_the_cache(
    account: Account, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate of sixteen GPUs for three hours is a table with the prices' date."""
    # GIVEN
    place, cache = urlsplit(account.endpoint).netloc, PriceCache(tmp_path / "cache" / "cdk-horovod" / "prices")
    for name, usd in {"g5.12xlarge": 6.0, "g4dn.12xlarge": 16.0}.items():
        now = time.time()
        cache.write(place, "eu-west-1", "on-demand", name, prices=CachedPrices(at=now, usd={"": usd}))
        cache.write(place, "eu-west-1", "spot", name, prices=CachedPrices(at=now, usd={"a": usd / 2, "b": usd / 3}))
    # WHEN
    code = main(["cost", "--gpus", "16", "--hours", "3"])
    # THEN
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    heading, fleet, _, small, large, note = captured.out.splitlines()
    assert heading.startswith("16 GPUs for 3 hours in eu-west-1; prices of ")
    assert fleet == "fleet TrainingFleet"
    assert small.split()[:2] == ["g5.12xlarge", "4"]
    assert [amount in small for amount in ("8.00 to 12.00", "24.00 to 36.00", "36.00 to 48.00")] == [True] * 3
    assert large.split()[:2] == ["g4dn.12xlarge", "4"]
    assert note.startswith("EC2's capacity decides the mix")


def test_tells_what_a_run_has_cost(
    receipt: dict[str, Any], write_receipt: WriteReceipt, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cost of an ended run is its receipt's."""
    # GIVEN
    receipt |= {
        "run": "cost-done",
        "cost": {"usd": 7.5, "on_demand_usd": 12.0, "saved_usd": 4.5, "ceiling_usd": 20},
        "gpu_seconds": {"billed": 8000, "useful": 6000.0, "ratio": 0.75},
    }
    receipt["nodes"][0] |= {"usd": 5.0, "on_demand_usd": 5.0}
    write_receipt(receipt)
    # WHEN
    code = main(["cost", "cost-done"])
    # THEN
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[:4] == [
        "run cost-done: 7.50 USD",
        "On-Demand    12.00 USD, Spot saved 4.50 USD",
        "ceiling      20.00 USD",
        "GPU seconds  8000 billed, 6000 useful (75%)",
    ]
    assert lines[5].split() == ["i-0a", "g5.12xlarge", "on-demand", "eu-west-1a", "5.00", "5.00"]


def test_receipt_as_json(
    receipt: dict[str, Any], write_receipt: WriteReceipt, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cost as JSON has all its keys even if the receipt knows little."""
    # GIVEN
    write_receipt(receipt | {"run": "cost-json", "cost": {"spent_usd": 1.25}, "nodes": []})
    # WHEN
    code = main(["cost", "cost-json", "--json"])
    # THEN
    found = json.loads(capsys.readouterr().out)
    assert (code, found["usd"], found["final"], found["saved_usd"], found["nodes"]) == (0, 1.25, True, None, [])


def test_tells_what_a_run_has_cost_so_far(
    account: Account, client: TrainingClient, script: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cost of a running run is that of its nodes so far, at the price recorded when it got its fleet."""
    # GIVEN
    run, now = client.fit(script, gpus=4, max_cost_usd=50, name="cost-running"), time.time()
    account.set_stage(
        client.connection,
        run.name,
        contract.STAGE_TRAINING,
        fleet="TrainingFleet",
        prices_json=json.dumps([{"instance_type": "g5.12xlarge", "market": "on-demand", "zone": "", "usd": 6.0}]),
        request_json=json.dumps({"gpus": 4, "max_cost_usd": 50}),
    )
    partition, sort = contract.node_key("TrainingFleet", run.run_id, 1, "i-0a")
    account.dynamodb.put_item(
        TableName=client.connection.ledger_table,
        Item={
            contract.PARTITION_KEY: {"S": partition},
            contract.SORT_KEY: {"S": sort},
            contract.NODE: {"S": "i-0a"},
            contract.STATE: {"S": contract.NODE_TRAINING},
            contract.GPUS: {"N": "4"},
            contract.INSTANCE_TYPE: {"S": "g5.12xlarge"},
            contract.MARKET: {"S": "on-demand"},
            contract.ZONE: {"S": "eu-west-1a"},
            contract.BOOTED_AT: {"N": str(int(now) - 3600)},
            contract.SEEN_AT: {"N": str(int(now))},
        },
    )
    # WHEN
    codes = [main(["cost", run.name]), main(["cost", run.name, "--json"])]
    # THEN
    first, ceiling, *document = capsys.readouterr().out.splitlines()
    found = json.loads("\n".join(document))
    assert codes == [0, 0]
    assert re.fullmatch(r"run cost-running: 6\.\d\d USD so far, 6\.00 USD an hour", first)
    assert ceiling == "ceiling      50.00 USD"
    assert (found["final"], found["usd_per_hour"], found["ceiling_usd"]) == (False, 6.0, 50.0)
    run.stop()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "'cost' needs either a RUN, or --gpus (and --hours) for an estimate"),
        (
            ["a-run", "--gpus", "4"],
            "'cost' needs either a RUN, or --gpus (and --hours) for an estimate",
        ),
        (["a-run", "--hours", "4"], "'--hours' needs '--gpus': omit it for a RUN"),
        (["--gpus", "3"], "'gpus' must be a multiple of 4 up to 16, got 3"),
        (["never"], "there is no run 'never' in the last 90 days: cdk-horovod ls lists the runs"),
    ],
)
def test_refuses_in_one_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is refused in one sentence."""
    assert main(["cost", *arguments]) == 2
    assert capsys.readouterr().err == f"cdk-horovod: {says}\n"
