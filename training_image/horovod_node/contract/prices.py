"""On-Demand prices, in USD an hour: their sources, and the rules for prices in a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PRICE_OF_CONSTRUCT: Final = "construct"
PRICE_OF_LIST: Final = "price list"
PRICE_OF_SUBMITTER: Final = "submitter"
PRICE_SOURCES: Final = (PRICE_OF_CONSTRUCT, PRICE_OF_LIST, PRICE_OF_SUBMITTER)
"""Sources of a price, in order of precedence."""

PRICE_LIST_REGIONS: Final = ("us-east-1", "eu-central-1", "ap-south-1")
"""Regions with a Price List Query API endpoint (AWS General Reference, "AWS Price List endpoints and quotas")."""


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """
    Where the Price List Query API has the On-Demand price of an instance type.

    Args:
        service: Service code, the argument `ServiceCode` of GetProducts.
        type_field: Attribute with the name of the instance type.
        fields: Values of the other attributes that leave one product for each type and Region (`regionCode`).
    """

    service: str
    type_field: str
    fields: Mapping[str, str]


SAGEMAKER_PREFIX: Final = "ml."
"""Begins the names of SageMaker's instance types, such as `ml.g5.xlarge`."""
EC2_PRICES: Final = PriceList(
    service="AmazonEC2",
    type_field="instanceType",
    fields={
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        # Capacity Blocks are separate products with an hourly price of 0.
        "marketoption": "OnDemand",
    },
)
SAGEMAKER_PRICES: Final = PriceList(
    service="AmazonSageMaker", type_field="instanceName", fields={"component": "Training"}
)
"""Of training jobs; the same types have other prices in notebooks and endpoints."""

LEAST_PRICE_USD: Final = 0.001
MOST_PRICE_USD: Final = 10_000
"""EC2's cheapest and dearest instances cost some 0.004 and 400: a price beyond these bounds is in another unit."""
PRICE_RULE: Final = f"must be USD an hour, a number from {LEAST_PRICE_USD} to {MOST_PRICE_USD}"
INSTANCE_TYPE_PATTERN: Final = r"^(ml\.)?[a-z0-9-]{1,32}\.[a-z0-9-]{1,32}$"
"""Matches, for example, `g5.xlarge` and `u7i-12tb.224xlarge`, and `ml.g5.xlarge` of SageMaker."""
