"""Prices, in the shapes of AWS's APIs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError

from horovod_client.aws.clients import AwsClients, pricing_region
from horovod_client.prices.cache import PriceCache
from horovod_client.prices.lookup import PriceLookup

SDK = "arn:aws:states:::aws-sdk:"
FILTERS = {
    "regionCode": "eu-west-1",
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}


def filters(instance_type: str) -> list[dict[str, str]]:
    """What finds the one product of a type."""
    wanted = {"instanceType": instance_type, **FILTERS}
    return [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]


def test_spot_prices_follow_on_demand_prices(machines: Any) -> None:
    """Each zone has its own price of each type that is asked for; a type without a price has none."""
    # GIVEN
    arguments = {
        "InstanceTypes": ["g5.xlarge", "x.unknown"],
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": "{% $now() %}",
    }

    # WHEN
    history = machines.output(
        {"Type": "Task", "Resource": f"{SDK}ec2:describeSpotPriceHistory", "Arguments": arguments}
    )["SpotPriceHistory"]

    # THEN
    assert [(item["InstanceType"], item["AvailabilityZone"], item["SpotPrice"]) for item in history] == [
        ("g5.xlarge", "eu-west-1a", "0.402400"),
        ("g5.xlarge", "eu-west-1b", "0.503000"),
        ("g5.xlarge", "eu-west-1c", "0.603600"),
    ]
    assert {item["ProductDescription"] for item in history} == {"Linux/UNIX"}


def test_spot_prices_are_filtered(cloud: Any) -> None:
    """A zone that is asked for is the only one that is answered, and Windows has no price here."""
    # GIVEN
    ec2 = cloud.client("ec2")

    # WHEN
    of_zone = ec2.describe_spot_price_history(InstanceTypes=["g5.xlarge"], AvailabilityZone="eu-west-1b")
    of_windows = ec2.describe_spot_price_history(InstanceTypes=["g5.xlarge"], ProductDescriptions=["Windows"])

    # THEN
    assert [item["AvailabilityZone"] for item in of_zone["SpotPriceHistory"]] == ["eu-west-1b"]
    assert of_windows["SpotPriceHistory"] == []


def test_on_demand_prices_are_listed(cloud: Any) -> None:
    """GetProducts answers with one product as JSON text, whose price is where the API has it."""
    # GIVEN
    pricing = cloud.client("pricing", region="us-east-1")

    # WHEN
    (text,) = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters("g5.12xlarge"))["PriceList"]
    unknown = pricing.get_products(ServiceCode="AmazonEC2", Filters=filters("x.unknown"))["PriceList"]

    # THEN
    listed = json.loads(text)
    (offer,) = listed["terms"]["OnDemand"].values()
    (dimension,) = offer["priceDimensions"].values()
    assert (dimension["unit"], float(dimension["pricePerUnit"]["USD"])) == ("Hrs", 5.672)
    assert listed["product"]["attributes"]["instanceType"] == "g5.12xlarge"
    assert unknown == []


def test_state_machines_read_prices(machines_of_us_east_1: Any) -> None:
    """A state machine in a Region of the price list reads the price out of the text with JSONata."""
    # GIVEN
    price = "$number($parse($states.result.PriceList[0]).terms.OnDemand.*.priceDimensions.*.pricePerUnit.USD)"

    # WHEN
    output = machines_of_us_east_1.output(
        {
            "Type": "Task",
            "Resource": f"{SDK}pricing:getProducts",
            "Arguments": {"ServiceCode": "AmazonEC2", "Filters": filters("g5.xlarge"), "MaxResults": 1},
            "Output": f"{{% {price} %}}",
        }
    )

    # THEN
    assert output == 1.006


def test_other_regions_have_no_price_list(cloud: Any, machines: Any) -> None:
    """Where the Price List API has no endpoint, a client gets no answer, and a task fails with an error to catch."""
    # GIVEN
    request = {"ServiceCode": "AmazonEC2", "Filters": filters("g5.xlarge")}

    # WHEN
    ended = machines.run({"Type": "Task", "Resource": f"{SDK}pricing:getProducts", "Arguments": request})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "Pricing.SdkClientException")
    with pytest.raises((ConnectionClosedError, EndpointConnectionError)):
        cloud.client("pricing").get_products(**request)


def test_the_client_finds_prices_here(cloud: Any, tmp_path: Path) -> None:
    """What `cdk-horovod cost` asks for is answered, in the nearest Region that has the Price List API."""
    # GIVEN
    pricing = cloud.client("pricing", region=pricing_region("eu-west-1"))
    clients = AwsClients(region="eu-west-1", pricing=pricing, ec2=cloud.client("ec2"))
    lookup = PriceLookup(region="eu-west-1", clients=clients, cache=PriceCache(tmp_path))

    # WHEN
    prices = lookup.prices_of(["g5.xlarge", "x.unknown"])

    # THEN
    on_demand = prices.on_demand("g5.xlarge")
    assert on_demand is not None
    assert on_demand.usd == 1.006
    assert [(price.zone, price.usd) for price in prices.spot("g5.xlarge")] == [
        ("eu-west-1a", 0.4024),
        ("eu-west-1b", 0.503),
        ("eu-west-1c", 0.6036),
    ]
    assert prices.remarks == (
        "the On-Demand price is not known for x.unknown: AWS lists none in eu-west-1",
        "the Spot price is not known for x.unknown: AWS lists none in eu-west-1",
    )


def test_training_prices_are_listed(cloud: Any) -> None:
    """GetProducts has the prices of SageMaker's training instances, which are no products of EC2."""
    # GIVEN
    pricing = cloud.client("pricing", region="us-east-1")
    wanted = {"regionCode": "eu-west-1", "component": "Training", "instanceName": "ml.g5.xlarge"}
    training = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]

    # WHEN
    (text,) = pricing.get_products(ServiceCode="AmazonSageMaker", Filters=training)["PriceList"]

    # THEN
    listed = json.loads(text)
    (offer,) = listed["terms"]["OnDemand"].values()
    (dimension,) = offer["priceDimensions"].values()
    assert (dimension["unit"], float(dimension["pricePerUnit"]["USD"])) == ("Hrs", 1.408)
    assert pricing.get_products(ServiceCode="AmazonEC2", Filters=training)["PriceList"] == []
    assert pricing.get_products(ServiceCode="AmazonSageMaker", Filters=filters("g5.xlarge"))["PriceList"] == []
