"""On-Demand prices that the client brings along, where the state machine cannot ask for them."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from horovod_client import Fleet, InvalidInput, PricesMissing, TrainingClient
from horovod_client.cli import main
from horovod_node import contract
from support.fake_account import Account, connection_output, connection_to

USD = {"g5.12xlarge": 5.672, "g4dn.12xlarge": 3.912}
"""What the Price List says of the fleet's types."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the user a cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def price_list() -> Iterator[Stubber]:
    """Stub the Price List API, which answers only what a test told it to."""
    keys: dict[str, Any] = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    with Stubber(boto3.client("pricing", region_name="eu-central-1", **keys)) as stub:
        yield stub


@pytest.fixture
def connect(account: Account, client: TrainingClient, price_list: Stubber) -> Callable[..., TrainingClient]:
    """Connect to the training as if its stack had been given the prices of *priced_types*."""

    def connect(*priced_types: str) -> TrainingClient:
        return TrainingClient(
            dataclasses.replace(client.connection, priced_types=frozenset(priced_types)),
            dynamodb=account.dynamodb,
            s3=account.s3,
            stepfunctions=account.stepfunctions,
            pricing=price_list.client,
        )

    return connect


def list_prices(price_list: Stubber, *types: str) -> None:
    """Let the Price List answer for each of *types*, in this order."""
    for name in types:
        terms = {"T": {"priceDimensions": {"D": {"pricePerUnit": {"USD": str(USD[name])}}}}}
        wanted = {
            "instanceType": name,
            "regionCode": "eu-west-1",
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "marketoption": "OnDemand",
        }
        price_list.add_response(
            "get_products",
            {"PriceList": [json.dumps({"terms": {"OnDemand": terms}})]},
            {
                "ServiceCode": "AmazonEC2",
                "Filters": [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()],
                "MaxResults": 1,
            },
        )


def test_brings_the_prices_that_the_stack_lacks(
    account: Account, connect: Callable[..., TrainingClient], price_list: Stubber, script: Path
) -> None:
    """The client brings a price for each type that the stack has none for, the second time from its cache."""
    # GIVEN one answer for each of two types
    list_prices(price_list, *USD)
    # WHEN
    requests = [
        account.request(connect().fit(script, gpus=4, name=f"priced-{number}").execution_arn) for number in "12"
    ]
    given = connect("g4dn.12xlarge").fit(script, gpus=4, name="priced-given", dry_run=True)
    whole = connect(*USD).fit(script, gpus=4, name="priced-whole", dry_run=True)
    # THEN
    assert [request["on_demand_prices"] for request in requests] == [USD, USD]
    assert json.loads(given["input"])["on_demand_prices"] == {"g5.12xlarge": 5.672}
    assert "on_demand_prices" not in json.loads(whole["input"])


def test_same_request_stays_the_same_run(
    connect: Callable[..., TrainingClient], price_list: Stubber, script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is repeated on another machine, with an empty cache, is the same request."""
    # GIVEN
    list_prices(price_list, *USD, *USD)
    client = connect()
    first = client.fit(script, gpus=4, name="priced-once")
    # WHEN
    monkeypatch.setenv("XDG_CACHE_HOME", str(script.parent / "another"))
    second = client.fit(script, gpus=4, name="priced-once")
    # THEN
    assert first == second
    assert first.status().state == "RUNNING"


def test_run_without_prices_goes_on(
    account: Account, connect: Callable[..., TrainingClient], price_list: Stubber, script: Path
) -> None:
    """A user who may not ask for prices gets one sentence of warning, and the run starts."""
    # GIVEN
    price_list.add_client_error("get_products", "AccessDeniedException")
    # WHEN
    with pytest.warns(PricesMissing) as warned:
        run = connect().fit(script, gpus=4, max_cost_usd=5, name="priced-not")
    # THEN
    assert set(account.request(run.execution_arn)) == {"source", "entry_point", "gpus", "max_cost_usd"}
    assert [(str(warning.message), warning.filename) for warning in warned] == [
        (
            "the On-Demand prices are not known for g5.12xlarge, g4dn.12xlarge: your credentials lack the permission "
            "pricing:GetProducts; the run starts anyway, but if a node has no known price, the ceiling is not enforced "
            "and the receipt has no total",
            __file__,
        )
    ]


def test_what_cannot_run_is_refused_first(connect: Callable[..., TrainingClient], script: Path) -> None:
    """A request that cannot run is refused before prices are asked for."""
    with warnings.catch_warnings():
        # A question would be refused, and that warned of.
        warnings.simplefilter("error", PricesMissing)
        with pytest.raises(InvalidInput, match=r"^'gpus' must be a multiple of 4 up to 16, got 6$"):
            connect().fit(script, gpus=6)


def test_command_warns_in_its_own_line(account: Account, script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command warns on stderr, as against moto, which has no Price List API; stdout is for the run."""
    # GIVEN
    account.deploy(
        "Unpriced", {"Connection": connection_output(**{contract.CONNECTION_PRICED_TYPES: ["g4dn.12xlarge"]})}
    )
    # WHEN
    code = main(["train", str(script), "--gpus", "4", "--name", "cli-unpriced", "--detach", "--stack", "Unpriced"])
    # THEN
    told = capsys.readouterr()
    assert (code, told.out) == (0, "run cli-unpriced started\n")
    line, hint = told.err.splitlines()
    assert hint == "cdk-horovod: follow it with: cdk-horovod status cli-unpriced --watch --stack Unpriced"
    assert line.startswith("cdk-horovod: the On-Demand price is not known for g5.12xlarge: AWS ")
    assert line.endswith(
        "; the run starts anyway, but if a node has no known price, the ceiling is not enforced and "
        "the receipt has no total"
    )


@pytest.mark.parametrize(
    ("region", "priced", "gpus", "types"),
    [
        ("us-west-2", (), 4, ("g5.xlarge", "g5.12xlarge")),
        ("us-west-2", (), 16, ("g5.12xlarge",)),
        ("us-west-2", ("g5.xlarge",), 4, ("g5.12xlarge",)),
        ("us-west-2", None, 4, ()),
        ("eu-central-1", (), 4, ()),
    ],
)
def test_types_whose_prices_are_wanted(
    region: str, priced: tuple[str, ...] | None, gpus: int, types: tuple[str, ...]
) -> None:
    """Prices are wanted for the types of fleets that the run fits, if the state machine cannot ask for them."""
    # GIVEN
    connection = connection_to(
        Fleet(id="Small", max_gpus=4, gpu_step=1, types={"g5.xlarge": 1, "g5.12xlarge": 4}),
        Fleet(id="Large", max_gpus=16, gpu_step=4, types={"g5.12xlarge": 4}),
        region=region,
        priced_types=None if priced is None else frozenset(priced),
    )
    # THEN
    assert connection.types_to_price(gpus) == types


def test_estimate_in_python(connect: Callable[..., TrainingClient], price_list: Stubber, account: Account) -> None:
    """`client.estimate` gives the numbers of `cdk-horovod cost --gpus`."""
    # GIVEN
    list_prices(price_list, *USD)
    ec2 = account.session.client("ec2", endpoint_url=account.endpoint)
    client = TrainingClient(connect().connection, pricing=price_list.client, ec2=ec2)
    # WHEN
    found = client.estimate(gpus=16, hours=3)
    # THEN
    (fleet,) = found.fleets
    assert {each.instance_type: each.on_demand_usd for each in fleet.types} == {
        "g5.12xlarge": pytest.approx(4 * 3 * 5.672),
        "g4dn.12xlarge": pytest.approx(4 * 3 * 3.912),
    }
    assert (found.gpus, found.hours, found.region) == (16, 3, "eu-west-1")
