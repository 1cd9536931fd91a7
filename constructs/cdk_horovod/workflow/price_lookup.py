"""
Looks up the prices of a fleet's instances for every run, before its first node starts.

Spot prices are EC2's, for each type and zone. An On-Demand price is the construct's, else that of the Price List API,
which has endpoints in three Regions only (`contract.PRICE_LIST_REGIONS`), else the request's, because a client can use
the API from anywhere (`docs/adr/0013-prices-come-with-the-request.md`). A price that cannot be found is left out, and
the run continues.

A submitter could understate prices in order to exceed the construct's cost ceiling. Therefore a submitted price counts
only if there is no other, and is raised to the highest Spot price of the same type; SageMaker's types have none.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import NO_OUTPUT, call_aws, jsonata
from horovod_node import contract


def look_up_prices(
    scope: Construct, *, types: Collection[str], on_demand_prices: Mapping[str, float], then: sfn.IChainable
) -> sfn.IChainable:
    """
    Build the states that add the fleet's prices to `$prices`, see `contract.PRICES_JSON`.

    *Wait for the ring* records them in the run's item.

    What SageMaker's Spot costs is known only from the bill. Until then the On-Demand price counts, which is not lower.

    Args:
        scope: Scope of the states.
        types: Instance types of all fleets.
        on_demand_prices: The construct's prices in USD an hour, by instance type.
        then: Follows, whatever prices were found.
    """
    on_demand = _look_up_on_demand_prices(scope, types=types, given=on_demand_prices)
    on_demand.add_catch(then).next(then)
    if all(_is_sagemakers(name) for name in types):
        return on_demand
    mixed = any(_is_sagemakers(name) for name in types)
    of_ec2 = f"[$filter($fleet.types, function($type) {{ $not({_IS_SAGEMAKERS}) }})]" if mixed else "[$fleet.types]"
    spot = _look_up_spot_prices(scope, types=of_ec2)
    spot.add_catch(on_demand).next(on_demand)
    if not mixed:
        return spot
    return (
        sfn.Choice.jsonata(scope, "Types of EC2?", outputs=NO_OUTPUT)
        # Without a type EC2 would list the prices of all.
        .when(sfn.Condition.jsonata(jsonata(f"$count({of_ec2}) > 0")), spot)
        .otherwise(on_demand)
    )


def _is_sagemakers(name: str) -> bool:
    return name.startswith(contract.SAGEMAKER_PREFIX)


_IS_SAGEMAKERS: Final = f"$substring($type, 0, {len(contract.SAGEMAKER_PREFIX)}) = '{contract.SAGEMAKER_PREFIX}'"
"""Expression of whether `$type` is one of SageMaker's."""


def _look_up_spot_prices(scope: Construct, *, types: str) -> sfn.TaskStateBase:
    return call_aws(
        scope,
        "Look up Spot prices",
        service="ec2",
        action="describeSpotPriceHistory",
        parameters={
            "InstanceTypes": jsonata(types),
            "ProductDescriptions": ["Linux/UNIX"],
            # With the present time as start, EC2 returns the current price of each type and zone.
            "StartTime": jsonata("$now()"),
        },
        resources=["*"],  # EC2's Describe actions support no resource-level permissions
        retries=1,
        assign={
            "prices": jsonata(
                f"""[$append($prices, $map($states.result.SpotPriceHistory, function($entry) {{ {{
  'instance_type': $entry.InstanceType, 'market': '{contract.SPOT}', 'zone': $entry.AvailabilityZone,
  'usd': $number($entry.SpotPrice)
}} }}))]"""
            )
        },
    )


def _look_up_the_type(scope: Construct, name: str, *, of: contract.PriceList) -> sfn.TaskStateBase:
    """Build the state that asks the Price List API for the price of the type in its input."""
    values = {of.type_field: jsonata("$states.input.type"), "regionCode": Stack.of(scope).region, **of.fields}
    return call_aws(
        scope,
        name,
        service="pricing",
        action="getProducts",
        parameters={
            "ServiceCode": of.service,
            "Filters": [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in values.items()],
            "MaxResults": 1,
        },
        resources=["*"],  # the Price List API supports no resource-level permissions
        retries=1,
        outputs={
            "type": jsonata("$states.input.type"),
            # The API returns an empty list for an unknown type.
            "usd": jsonata(
                "$count($states.result.PriceList) > 0 ? $number($parse($states.result.PriceList[0])"
                ".terms.OnDemand.*.priceDimensions.*.pricePerUnit.USD) : 0"
            ),
        },
    )


def _look_up_on_demand_prices(scope: Construct, *, types: Collection[str], given: Mapping[str, float]) -> sfn.Map:
    """Build the state that asks the Price List API, if the Region has it, and adds On-Demand prices to `$prices`."""
    known = json.dumps(dict(given))
    region = Stack.of(scope).region
    to_ask = f"""'{region}' in {json.dumps(contract.PRICE_LIST_REGIONS)} ? [$map(
  $filter($fleet.types, function($type) {{ $not($exists($lookup({known}, $type))) }}),
  function($type) {{ {{'type': $type}} }}
)] : []"""
    unknown = sfn.Pass.jsonata(scope, "Go on without its price", outputs={"type": "unknown", "usd": 0})
    asks = {
        of.service: _look_up_the_type(scope, name, of=of)
        for name, of in (
            ("Look up the type", contract.EC2_PRICES),
            ("Look up SageMaker's type", contract.SAGEMAKER_PRICES),
        )
        if any((of is contract.SAGEMAKER_PRICES) is _is_sagemakers(name) for name in types)
    }
    for ask in asks.values():
        ask.add_catch(unknown)
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
    first: sfn.IChainable = next(iter(asks.values()))
    if len(asks) > 1:
        is_sagemakers = sfn.Condition.jsonata(jsonata(f"($type := $states.input.type; {_IS_SAGEMAKERS})"))
        first = (
            sfn.Choice.jsonata(scope, "Whose price?")
            .when(is_sagemakers, asks[contract.SAGEMAKER_PRICES.service])
            .otherwise(asks[contract.EC2_PRICES.service])
        )
    prices.item_processor(first)
    return prices
