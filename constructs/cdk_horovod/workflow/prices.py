"""
What the instances of a fleet cost an hour, looked up for every run before its first node starts.

Spot prices are EC2's own, for each type and zone. On-Demand prices are those that the construct was given, else the
Price List API's, which answers in three Regions only (`PRICE_LIST_REGIONS`). A price that cannot be found is left out,
and hinders nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.item_update import update_item
from cdk_horovod.workflow.states import NO_OUTPUT, RUN_KEY, call_aws, jsonata
from horovod_node import contract

PRICE_LIST_REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
"""Where the Price List Query API has endpoints (AWS General Reference, "AWS Price List endpoints and quotas")."""


def look_up_prices(
    scope: Construct, *, ledger: Ledger, on_demand_prices: Mapping[str, float], then: sfn.IChainable
) -> sfn.TaskStateBase:
    """
    Build the states that set `$prices`, see `contract.PRICES_JSON`, and write them into the run's item.

    Args:
        scope: Of the states.
        ledger: Where the run's item is.
        on_demand_prices: Instance type to USD an hour.
        then: What follows, whatever could be found.
    """
    record = update_item(
        scope,
        "Record the prices",
        ledger=ledger,
        key=RUN_KEY,
        update="SET #prices = :prices",
        names={"#prices": contract.PRICES_JSON},
        values={":prices": {"S": jsonata("$string([$prices])")}},
        retries=1,
    )
    record.add_catch(then).next(then)
    on_demand = _look_up_on_demand_prices(scope, given=on_demand_prices)
    on_demand.add_catch(record).next(record)
    spot = _look_up_spot_prices(scope)
    spot.add_catch(on_demand).next(on_demand)
    return spot


def _look_up_spot_prices(scope: Construct) -> sfn.TaskStateBase:
    return call_aws(
        scope,
        "Look up Spot prices",
        service="ec2",
        action="describeSpotPriceHistory",
        parameters={
            "InstanceTypes": jsonata("[$fleet.types]"),
            "ProductDescriptions": ["Linux/UNIX"],
            # From now on: that is the price in force, one for each type and zone.
            "StartTime": jsonata("$now()"),
        },
        resources=["*"],  # EC2's Describe actions know no resources
        retries=1,
        assign={
            "prices": jsonata(
                f"""[$map($states.result.SpotPriceHistory, function($entry) {{ {{
  'instance_type': $entry.InstanceType, 'market': '{contract.SPOT}', 'zone': $entry.AvailabilityZone,
  'usd': $number($entry.SpotPrice)
}} }})]"""
            )
        },
    )


def _look_up_on_demand_prices(scope: Construct, *, given: Mapping[str, float]) -> sfn.Map:
    """Ask for each type that no price was given for; then add what is known to `$prices`."""
    known = json.dumps(dict(given))
    look = call_aws(
        scope,
        "Look up the type",
        service="pricing",
        action="getProducts",
        parameters={
            "ServiceCode": "AmazonEC2",
            "Filters": [
                {"Type": "TERM_MATCH", "Field": field, "Value": value}
                for field, value in {
                    "instanceType": jsonata("$states.input.type"),
                    "regionCode": Stack.of(scope).region,
                    "operatingSystem": "Linux",
                    "tenancy": "Shared",
                    "preInstalledSw": "NA",
                    "capacitystatus": "Used",
                }.items()
            ],
            "MaxResults": 1,
        },
        resources=["*"],  # the Price List API knows no resources
        retries=1,
        outputs={
            "type": jsonata("$states.input.type"),
            # An empty list is how the API says that it does not know a type.
            "usd": jsonata(
                "$count($states.result.PriceList) > 0 ? $number($parse($states.result.PriceList[0])"
                ".terms.OnDemand.*.priceDimensions.*.pricePerUnit.USD) : 0"
            ),
        },
    )
    unknown = sfn.Pass.jsonata(scope, "Go on without its price", outputs={"type": "unknown", "usd": 0})
    look.add_catch(unknown)
    added = f"""(
  $given := {known};
  $listed := $states.result;
  $on_demand := [$map($fleet.types, function($type) {{ (
    $own := $lookup($given, $type);
    $told := $filter($listed, function($entry) {{ $entry.type = $type and $entry.usd > 0 }}).usd;
    {{
      'instance_type': $type, 'market': '{contract.ON_DEMAND}', 'zone': '',
      'usd': $exists($own) ? $own : $exists($told) ? $max($told) : 0
    }}
  ) }})];
  [$append($prices, [$filter($on_demand, function($entry) {{ $entry.usd > 0 }})])]
)"""
    prices = sfn.Map.jsonata(
        scope,
        "Look up On-Demand prices",
        items=sfn.ProvideItems.jsonata(
            jsonata(
                f"[$map($filter($fleet.types, function($type) {{ $not($exists($lookup({known}, $type))) }}), "
                "function($type) { {'type': $type} })]"
            )
        ),
        max_concurrency=4,
        assign={"prices": jsonata(added)},
        outputs=NO_OUTPUT,
    )
    prices.item_processor(look)
    return prices
