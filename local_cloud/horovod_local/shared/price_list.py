"""
The AWS Price List API, which moto lacks: GetProducts for On-Demand instances of EC2 and SageMaker, and their prices.

The prices have only the order of magnitude of real ones (Linux, us-east-1, about 2026) and are the same in every
Region: do not plan with them. The answers have the form of the Price List Query API. As on AWS, there are endpoints in
three Regions only (AWS General Reference, "AWS Price List endpoints and quotas"); elsewhere the connection is closed.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Mapping
from typing import Any, Final

from horovod_local.shared.api_calls import read_body, read_call
from horovod_local.shared.api_faults import Application, StartResponse

REGIONS: Final = ("us-east-1", "eu-central-1", "ap-south-1")
ON_DEMAND_USD: Final[Mapping[str, float]] = {
    "g4dn.xlarge": 0.526,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g5.4xlarge": 1.624,
    "g5.8xlarge": 2.448,
    "g5.16xlarge": 4.096,
    "g5.12xlarge": 5.672,
    "g5.24xlarge": 8.144,
    "g5.48xlarge": 16.288,
    "g6.xlarge": 0.8048,
    "p3.2xlarge": 3.06,
    "p3.8xlarge": 12.24,
    "p3.16xlarge": 24.48,
    "p4d.24xlarge": 21.9576,
}
"""On-Demand price in USD an hour by instance type; other types have no product."""
SAGEMAKER_USD: Final[Mapping[str, float]] = {
    "ml.g4dn.xlarge": 0.736,
    "ml.g5.xlarge": 1.408,
    "ml.g5.2xlarge": 1.515,
    "ml.g5.4xlarge": 2.03,
    "ml.g5.8xlarge": 3.06,
    "ml.g5.16xlarge": 5.12,
    "ml.g5.12xlarge": 7.09,
    "ml.g5.24xlarge": 10.18,
    "ml.g5.48xlarge": 20.36,
    "ml.g6.xlarge": 1.127,
    "ml.p3.2xlarge": 3.825,
    "ml.p3.8xlarge": 14.688,
    "ml.p3.16xlarge": 28.152,
    "ml.p4d.24xlarge": 25.2513,
}
"""On-Demand price of training in USD an hour by instance type."""
SAGEMAKER_SPOT_SHARE: Final = 0.4
"""Billable time of managed Spot training as a share of its training time; SageMaker has no Spot prices."""
SPOT_SHARES: Final = (0.4, 0.5, 0.6)
"""Spot price as a share of the On-Demand price, by zone in their order; it differs by zone, and never changes."""

_TARGET: Final = "AWSPriceListService.GetProducts"


def spot_usd(instance_type: str, *, zone: str) -> float | None:
    """Return the Spot price in *zone*, in USD an hour; None for a type without a price."""
    if instance_type not in ON_DEMAND_USD:
        return None
    return ON_DEMAND_USD[instance_type] * SPOT_SHARES[(ord(zone[-1]) - ord("a")) % len(SPOT_SHARES)]


class PriceList:
    """
    WSGI middleware that answers GetProducts, and passes on all other requests.

    Args:
        aws: Answers the other requests.
    """

    def __init__(self, aws: Application) -> None:
        self._aws = aws

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET") != _TARGET:
            return self._aws(environ, start_response)
        request = json.loads(read_body(environ))
        call = read_call(environ)
        if call is None or call.region not in REGIONS:
            with contextlib.suppress(OSError):
                environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("the Price List API has no endpoint in this Region")
        start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
        return [json.dumps(get_products(request)).encode()]


def get_products(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer GetProducts with the products of the service that match every filter, each as JSON text."""
    wanted = {item["Field"]: item["Value"] for item in request.get("Filters", ())}
    region = wanted.get("regionCode", REGIONS[0])
    products = [
        *(_ec2_product(kind, usd, region) for kind, usd in ON_DEMAND_USD.items()),
        *(_training_product(kind, usd, region) for kind, usd in SAGEMAKER_USD.items()),
    ]
    found = [
        json.dumps(product)
        for product in products
        if request.get("ServiceCode") == product["serviceCode"]
        and all(product["product"]["attributes"].get(field) == value for field, value in wanted.items())
    ]
    return {"FormatVersion": "aws_v1", "PriceList": found[: request.get("MaxResults", 100)]}


def _ec2_product(kind: str, usd: float, region: str) -> dict[str, Any]:
    attributes = {
        "servicecode": "AmazonEC2",
        "servicename": "Amazon Elastic Compute Cloud",
        "instanceType": kind,
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
        "licenseModel": "No License required",
        "operation": "RunInstances",
    }
    description = f"${usd} per On Demand Linux {kind} Instance Hour"
    return _product("Compute Instance", attributes, usd=usd, description=description)


def _training_product(kind: str, usd: float, region: str) -> dict[str, Any]:
    """
    Describe the price of training on one instance.

    The members `instanceName` and `component` are those by which elC0mpa/aws-doctor (pull request 136) finds prices of
    the component Hosting.
    """
    attributes = {
        "servicecode": "AmazonSageMaker",
        "servicename": "Amazon SageMaker",
        "component": "Training",
        "instanceName": kind,
        "instanceType": f"{kind}-Training",
        "regionCode": region,
        "operation": "RunInstance",
    }
    description = f"${usd} per Training {kind} hour"
    return _product("ML Instance", attributes, usd=usd, description=description)


def _product(family: str, attributes: Mapping[str, str], *, usd: float, description: str) -> dict[str, Any]:
    sku = attributes["instanceType"].upper().replace(".", "").replace("-", "")
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    price = {
        "rateCode": rate,
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": description,
        "appliesTo": [],
        "pricePerUnit": {"USD": f"{usd:.10f}"},
    }
    offer = {
        "sku": sku,
        "offerTermCode": "JRTCKXETXF",
        "effectiveDate": "2026-08-01T00:00:00Z",
        "termAttributes": {},
        "priceDimensions": {rate: price},
    }
    return {
        "serviceCode": attributes["servicecode"],
        "product": {"productFamily": family, "sku": sku, "attributes": dict(attributes)},
        "terms": {"OnDemand": {term: offer}},
    }
