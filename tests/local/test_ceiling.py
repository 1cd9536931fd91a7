"""Runs that may cost so much and no more: what a ceiling is made of, who guards it, and what if no price is known."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from horovod_client import InvalidInput, Run
from horovod_local import ApiFault, Faults, LocalCloud, LocalInstance, Refusal
from horovod_local.shared.faults import WORKFLOW
from horovod_local.shared.price_list import ON_DEMAND_USD, spot_usd
from horovod_node import contract
from horovod_node.checkpoints.restore import restore
from horovod_node.node.folders import Layout
from support.faults.lab import until
from support.local_cloud.deployment import SCRIPTS, SETTINGS, Deployment, wait
from support.synthesis import synthesise
from support.waiting import SECONDS

pytestmark = pytest.mark.local

HEARTBEAT_SECONDS = 15
"""Longer than the ten seconds that are left of a ceiling when the leader falls silent: the ceiling comes first."""
A_DOLLAR_A_SECOND = 3600
LIMIT_USD = 120
"""The construct's own ceiling."""
CEILING_SECONDS = 50
"""What the ceilings here allow, from the moment on at which nodes are asked for."""
SOURCES = {
    "given": contract.PRICE_OF_CONSTRUCT,
    "looked_up": contract.PRICE_OF_LIST,
    "brought": contract.PRICE_OF_SUBMITTER,
}
"""Who told the On-Demand prices of each app."""
SLACK = 1.5
"""The leader stops at nine tenths of a ceiling; a loaded machine takes its time to terminate what then still costs."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An app that was given On-Demand prices, where the Price List API has no endpoint, and a ceiling."""
    prices = {"on_demand_prices": f"g5.4xlarge={A_DOLLAR_A_SECOND}", "max_cost_usd": LIMIT_USD, "lease_seconds": 40}
    yield from deployed(tmp_path_factory, region="eu-west-1", **prices)


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An app without prices or a ceiling, in a Region that has the Price List API; the list lacks its second type."""
    yield from deployed(tmp_path_factory, region="eu-central-1", instance_types="g6.xlarge,g6.4xlarge")


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """An app without prices in a Region without the Price List API: the client brings the On-Demand prices along."""
    yield from deployed(tmp_path_factory, region="us-west-2", instance_types="g6.xlarge")


def deployed(tmp_path_factory: pytest.TempPathFactory, *, region: str, **settings: object) -> Iterator[Deployment]:
    """Deploy the app into a cloud of its own."""
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    synthesise(out, settings={**SETTINGS, "heartbeat_seconds": HEARTBEAT_SECONDS, **settings})
    with LocalCloud(home=tmp_path_factory.mktemp(region), region=region) as cloud:
        cloud.deploy(out)
        yield Deployment(cloud=cloud)


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every run, however it ended: no fault, no instance, no process, no lease."""
    # Only the clouds that the test uses: the other one need not be there for it.
    named = {
        *request.fixturenames,
        getattr(request.node, "callspec", None) and request.node.callspec.params.get("prices"),
    }
    apps = [request.getfixturevalue(name) for name in ("given", "looked_up", "brought") if name in named]
    yield
    for app in apps:
        app.cloud.set_faults(Faults())
        app.assert_nothing_is_left()


@pytest.mark.parametrize(
    "prices", ["given", *(pytest.param(name, marks=pytest.mark.slow) for name in ("brought", "looked_up"))]
)
def test_run_that_reaches_its_ceiling_keeps_its_checkpoints(
    prices: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The leader stops it in time: the cause says what was spent, and the receipt; what the script wrote is in S3."""
    # GIVEN a run that would train for an hour, and may cost what its ring costs in some seconds
    app: Deployment = request.getfixturevalue(prices)
    usd_per_second = 1.0 if prices == "given" else 1.5 * ON_DEMAND_USD["g6.xlarge"] / 3600
    ceiling = round(CEILING_SECONDS * usd_per_second, 6)
    # WHEN
    run = app.start("checkpoints.py", max_cost_usd=ceiling)
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.notice) == ("FAILED", contract.ERROR_COST_CEILING, None)
    receipt = run.receipt()
    cost = receipt["cost"]
    assert cost["usd_per_hour"] == pytest.approx(ring_usd(receipt))
    assert cost["ceiling_usd"] == ceiling
    assert 0 < cost["spent_usd"] <= ceiling * SLACK
    assert {price["source"] for price in receipt["on_demand_prices"]} == {SOURCES[prices]}
    # AND in the leader's words
    said = re.fullmatch(
        r"The run's instances cost ([\d.]+) USD an hour and had cost ([\d.]+) USD at \S+; its max_cost_usd is "
        rf"{ceiling:g} USD\. The last checkpoint is (s3://\S+/)\.",
        str(ended.cause),
    )
    assert said is not None, ended.cause
    assert float(said[1]) == pytest.approx(cost["usd_per_hour"], rel=0.01)
    # Times are whole seconds: of a ceiling that is this short they are a few percent.
    assert 0.8 * ceiling <= float(said[2]) <= ceiling
    bucket = app.training.connection.model_bucket
    found = restore(
        app.cloud.client("s3"),
        layout=Layout(root=tmp_path),
        bucket=bucket,
        run_id=contract.run_id(app.training.connection.queue, "another", datetime.now(UTC)),
        resume_from=run.name,
    )
    assert found is not None
    assert said[3] == found.name.uri(bucket)
    assert int((tmp_path / "checkpoints" / "step").read_text()) > 0


@pytest.mark.slow
def test_switches_end_a_run_whose_leader_hangs(given: Deployment) -> None:
    """The leader's agent stands still and the workflow scales nothing: every node takes itself out at the ceiling."""
    # GIVEN a run close to its ceiling
    run = given.start("checkpoints.py", max_cost_usd=CEILING_SECONDS)
    ceiling_at = ceiling_of(given, run)
    nodes = given.cloud.instances()
    late = ApiFault(
        service="autoscaling", operation="SetDesiredCapacity", caller=WORKFLOW, error=None, delay_seconds=200
    )
    given.cloud.set_faults(Faults(failing=(late,)))
    # WHEN
    stop_the_leader(given, run, ceiling_at=ceiling_at)
    # THEN
    assert until(SECONDS, lambda: not given.instances_left())
    assert [said for node in nodes for said in switch_says(node)] == [
        f"run {run.name} has reached its cost ceiling"
    ] * 2
    given.cloud.set_faults(Faults())
    assert_ceiling_was_reached(run)


@pytest.mark.slow
def test_time_limit_ends_a_run_whose_leader_hangs(given: Deployment) -> None:
    """The leader's agent stands still and no instance has a switch: Train's timeout is the ceiling."""
    # GIVEN
    given.cloud.set_faults(Faults(switches_start=False))
    run = given.start("checkpoints.py", max_cost_usd=CEILING_SECONDS)
    # WHEN
    stop_the_leader(given, run, ceiling_at=ceiling_of(given, run))
    # THEN
    assert_ceiling_was_reached(run)


@pytest.mark.slow
def test_construct_sets_the_default(given: Deployment) -> None:
    """A run that asks for no ceiling has the construct's."""
    # WHEN
    run = given.start("checkpoints.py", hyperparameters={"seconds": 1})
    ended = wait(run)
    # THEN
    assert (ended.state, ended.cause) == ("SUCCEEDED", None)
    assert run.receipt()["cost"]["ceiling_usd"] == LIMIT_USD
    assert run.receipt()["request"]["max_cost_usd"] == LIMIT_USD


def test_construct_sets_the_limit(given: Deployment) -> None:
    """More than the construct allows is refused, by the client and by the state machine, in the same words."""
    # GIVEN
    refusal = f"'max_cost_usd' must be at most {LIMIT_USD}, got 120.5"
    with pytest.raises(InvalidInput, match=refusal):
        given.start("checkpoints.py", max_cost_usd=120.5)
    arguments = given.training.fit(SCRIPTS / "checkpoints.py", gpus=2, dry_run=True)
    request = {**json.loads(arguments["input"]), contract.MAX_COST_USD: 120.5}
    # WHEN it goes past the client
    run = given.start_past_the_client({**arguments, "input": json.dumps(request)})
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error, ended.cause) == ("FAILED", contract.ERROR_INVALID_REQUEST, refusal)


@pytest.mark.slow
def test_type_without_a_price_leaves_the_time_limit(looked_up: Deployment) -> None:
    """EC2 gives a type that the price list lacks: the run goes on, says so, and ends at its time limit."""
    # GIVEN
    looked_up.cloud.set_faults(Faults(refused=(Refusal(instance_type="g6.xlarge"),)))
    # WHEN
    run = looked_up.start("checkpoints.py", max_cost_usd=0.0001, max_runtime=timedelta(seconds=HEARTBEAT_SECONDS + 1))
    ended = wait(run)
    # THEN
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_MAX_RUNTIME)
    assert_unwatched(run, ceiling="0.0001", types="g6.4xlarge")


@pytest.mark.slow
def test_price_list_that_fails_stops_nothing(looked_up: Deployment) -> None:
    """The Price List API is away: a run whose ceiling would be reached at once trains to its end."""
    # GIVEN
    looked_up.cloud.set_faults(Faults(failing=(ApiFault(service="pricing"),)))
    # WHEN
    run = looked_up.start("checkpoints.py", max_cost_usd=0.0001, hyperparameters={"seconds": 1})
    ended = wait(run)
    # THEN
    assert (ended.state, ended.cause) == ("SUCCEEDED", None)
    assert_unwatched(run, ceiling="0.0001", types="g6.xlarge")


@pytest.mark.slow
def test_spot_prices_that_fail_count_as_on_demand(looked_up: Deployment) -> None:
    """Without Spot prices the ceiling is watched all the same, as if every node were On-Demand."""
    # GIVEN
    looked_up.cloud.set_faults(Faults(failing=(ApiFault(service="ec2", operation="DescribeSpotPriceHistory"),)))
    # WHEN
    run = looked_up.start("checkpoints.py", max_cost_usd=5, hyperparameters={"seconds": 1})
    ended = wait(run)
    # THEN
    assert (ended.state, ended.notice) == ("SUCCEEDED", None)
    assert run.receipt()["cost"]["usd_per_hour"] == pytest.approx(2 * ON_DEMAND_USD["g6.xlarge"])


def ring_usd(receipt: dict[str, Any]) -> float:
    """Add up what the nodes of a receipt cost an hour."""
    on_demand = {**ON_DEMAND_USD, "g5.4xlarge": A_DOLLAR_A_SECOND}
    markets = sorted(node["market"] for node in receipt["nodes"])
    assert markets == [contract.ON_DEMAND, contract.SPOT]
    return sum(
        (spot_usd(node["instance_type"], zone=node["zone"]) or 0)
        if node["market"] == contract.SPOT
        else on_demand[node["instance_type"]]
        for node in receipt["nodes"]
    )


def ceiling_of(app: Deployment, run: Run) -> float:
    """Read when the run will have cost its ceiling, once that is known and the ring trains."""

    def look() -> float:
        item = app.item(contract.run_key(run.run_id)) or {}
        return float(item.get(contract.CEILING_AT, {}).get("N", 0))

    assert until(SECONDS, look)
    return look()


def stop_the_leader(app: Deployment, run: Run, *, ceiling_at: float) -> None:
    """Stop the leader's agent: late enough for the ceiling to come first, before it would end the run itself."""
    time.sleep(max(0.0, ceiling_at - 10 - time.time()))
    leader = app.leader_of(run)
    (pid,) = [node.pid for node in app.cloud.instances() if node.instance_id == leader]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert time.time() < ceiling_at - CEILING_SECONDS / 10, "the machine was too slow: the leader may have acted"


def assert_ceiling_was_reached(run: Run) -> None:
    """The run ended at its ceiling, in the workflow's words."""
    ended = wait(run)
    assert (ended.state, ended.error) == ("FAILED", contract.ERROR_COST_CEILING)
    cost = run.receipt()["cost"]
    assert ended.cause == (
        f"The run has cost its max_cost_usd, {CEILING_SECONDS} USD: "
        f"its instances cost {cost['usd_per_hour']} USD an hour."
    )
    assert 0.9 * CEILING_SECONDS <= cost["spent_usd"] <= SLACK * CEILING_SECONDS


def assert_unwatched(run: Run, *, ceiling: str, types: str) -> None:
    """Status and receipt say that nobody watched the ceiling; there is no cost to be told."""
    notice = f"The ceiling of {ceiling} USD is not watched: no price is known for {types}. Only the time limit holds."
    receipt = run.receipt()
    assert (run.status().notice, receipt.get("notice"), receipt.get("cost")) == (notice, notice, None)


def switch_says(node: LocalInstance) -> list[str]:
    """List the reasons for which the dead-man's switch of *node* took it out."""
    log = (Path(node.log).parent / "switch.log").read_text()
    return re.findall(r"this instance goes: (.*)", log)
