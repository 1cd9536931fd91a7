"""
What the instances of a fleet cost an hour, looked up for every run before its first node starts.

Spot prices are EC2's own, for each type and zone. An On-Demand price is the one that the construct was given, else the
Price List API's, which answers in three Regions only (`contract.PRICE_LIST_REGIONS`), else the one that the request
brought along, because its client could ask from anywhere (`docs/adr/0013-prices-come-with-the-request.md`). A price
that cannot be found is left out, and hinders nothing.

Whoever submits a run could understate its prices, and so spend more than the construct's ceiling allows. That is why a
submitted price counts only where nobody else knows one, and never as less than the highest that EC2 asks for the same
type as Spot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, call_aws, jsonata
from horovod_node import contract


def look_up_prices(
    scope: Construct, *, on_demand_prices: Mapping[str, float], then: sfn.IChainable
) -> sfn.TaskStateBase:
    """
    Build the states that set `$prices`, see `contract.PRICES_JSON`; the run's item has them with its first question.

    Args:
        scope: Of the states.
        on_demand_prices: Instance type to USD an hour.
        then: What follows, whatever could be found.
    """
    on_demand = _look_up_on_demand_prices(scope, given=on_demand_prices)
    on_demand.add_catch(then).next(then)
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
    """Ask for each type that no price was given for, where there is somebody to ask; then add all to `$prices`."""
    known = json.dumps(dict(given))
    region = Stack.of(scope).region
    to_ask = f"""'{region}' in {json.dumps(contract.PRICE_LIST_REGIONS)} ? [$map(
  $filter($fleet.types, function($type) {{ $not($exists($lookup({known}, $type))) }}),
  function($type) {{ {{'type': $type}} }}
)] : []"""
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
                    "regionCode": region,
                    "operatingSystem": "Linux",
                    "tenancy": "Shared",
                    "preInstalledSw": "NA",
                    "capacitystatus": "Used",
                    # Capacity Blocks are products of their own, which cost nothing an hour.
                    "marketoption": "OnDemand",
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
    submitted = f"$request.{contract.ON_DEMAND_PRICES}"
    added = f"""(
  $given := {known};
  $submitted := $exists({submitted}) ? {submitted} : {{}};
  $listed := $states.result;
  $on_demand := [$map($fleet.types, function($type) {{ (
    $own := $lookup($given, $type);
    $told := $filter($listed, function($entry) {{ $entry.type = $type and $entry.usd > 0 }}).usd;
    $brought := $lookup($submitted, $type);
    $spot := $filter($prices, function($entry) {{ $entry.instance_type = $type }}).usd;
    $found := $exists($own) ? {{'usd': $own, 'source': '{contract.PRICE_OF_CONSTRUCT}'}}
      : $exists($told) ? {{'usd': $max($told), 'source': '{contract.PRICE_OF_LIST}'}}
      : $exists($brought) ? {{'usd': $max([$brought, $spot]), 'source': '{contract.PRICE_OF_SUBMITTER}'}}
      : {{'usd': 0}};
    $merge([{{'instance_type': $type, 'market': '{contract.ON_DEMAND}', 'zone': ''}}, $found])
  ) }})];
  [$append($prices, [$filter($on_demand, function($entry) {{ $entry.usd > 0 }})])]
)"""
    prices = sfn.Map.jsonata(
        scope,
        "Look up On-Demand prices",
        items=sfn.ProvideItems.jsonata(jsonata(to_ask)),
        max_concurrency=4,
        assign={"prices": jsonata(added)},
        outputs=NO_OUTPUT,
    )
    prices.item_processor(look)
    return prices
