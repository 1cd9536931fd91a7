"""
What a ring costs: looked up when it is formed, and only if the run has a ceiling.

A ring that began with fewer GPUs than were asked for may grow: what counts is what all of them would cost. A run that
started again has cost what its dearest ring costs, from the first start of nodes on. So neither growth nor a restart
takes a run over its ceiling.

Spot prices are EC2's own, for each type and zone. On-Demand prices are those that the construct was given, else the
Price List API's, which answers in three Regions only (`PRICE_LIST_REGIONS`). When a price is missing the run goes on
under its time limit alone, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from aws_cdk import Stack
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.states import NO_OUTPUT, RUN_KEY, call_aws, jsonata
from horovod_node import contract

PRICE_LIST_REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
"""Where the Price List Query API has endpoints (AWS General Reference, "AWS Price List endpoints and quotas")."""


UNKNOWN = {
    contract.USD_PER_HOUR: 0,
    contract.CEILING_AT: 0,
    contract.NOTICE: "The ceiling is not watched: prices could not be looked up. Only the time limit holds.",
}
"""`$price` before it is looked up, and when even that fails."""


def price_the_ring(
    scope: Construct, *, ledger: Ledger, on_demand_prices: Mapping[str, float], then: sfn.IChainable
) -> sfn.State:
    """
    Build the states that set `$price` and write it, or the notice that it is unknown, into the run's item.

    Args:
        ledger: Where the run's item is.
        on_demand_prices: Instance type to USD an hour.
        then: What follows, whatever could be found.
    """
    record = _record(
        scope,
        "Record the price",
        ledger=ledger,
        attributes={
            contract.USD_PER_HOUR: "N",
            contract.BILLED_FROM: "N",
            contract.CEILING_USD: "N",
            contract.CEILING_AT: "N",
        },
    )
    remark = _record(scope, "Record that prices are unknown", ledger=ledger, attributes={contract.NOTICE: "S"})
    for state in (record, remark):
        state.add_catch(then).next(then)
    priced = (
        sfn.Choice.jsonata(scope, "Prices known?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"$price.{contract.USD_PER_HOUR} > 0")), record)
        .otherwise(remark)
    )
    on_demand = _look_up_on_demand_prices(scope, given=on_demand_prices)
    on_demand.add_catch(priced).next(priced)
    spot = _look_up_spot_prices(scope)
    spot.add_catch(on_demand).next(on_demand)
    return (
        sfn.Choice.jsonata(scope, "Ceiling set?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"$exists($request.{contract.MAX_COST_USD})")), spot)
        .otherwise(then)
    )


def _look_up_spot_prices(scope: Construct) -> sfn.TaskStateBase:
    return call_aws(
        scope,
        "Look up Spot prices",
        service="ec2",
        action="describeSpotPriceHistory",
        parameters={
            "InstanceTypes": jsonata(f"[$distinct($ring.{contract.NODES}.{contract.INSTANCE_TYPE})]"),
            "ProductDescriptions": ["Linux/UNIX"],
            # From now on: that is the price in force, one for each type and zone.
            "StartTime": jsonata("$now()"),
        },
        resources=["*"],  # EC2's Describe actions know no resources
        assign={
            "spot": jsonata(
                """[$map($states.result.SpotPriceHistory, function($entry) {
  {'type': $entry.InstanceType, 'zone': $entry.AvailabilityZone, 'usd': $number($entry.SpotPrice)}
})]"""
            )
        },
    )


def _look_up_on_demand_prices(scope: Construct, *, given: Mapping[str, float]) -> sfn.Map:
    """
    Ask for each type that no price was given for; then set `$price`.

    Here and not in a Pass or Choice, because a task's and a map's errors can be caught, also those of an expression.
    """
    known = json.dumps(dict(given))
    nodes = f"$ring.{contract.NODES}"
    types = f"$distinct({nodes}.{contract.INSTANCE_TYPE})"
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
    prices = sfn.Map.jsonata(
        scope,
        "Look up On-Demand prices",
        items=sfn.ProvideItems.jsonata(
            jsonata(
                f"[$map($filter({types}, function($type) {{ $not($exists($lookup({known}, $type))) }}), "
                "function($type) { {'type': $type} })]"
            )
        ),
        max_concurrency=4,
        assign={"price": jsonata(_price(known, nodes))},
        outputs=NO_OUTPUT,
    )
    prices.item_processor(look)
    return prices


def _price(known: str, nodes: str) -> str:
    ceiling = f"$request.{contract.MAX_COST_USD}"
    return f"""(
  $given := {known};
  $usd := $map({nodes}, function($node) {{ (
    $there := $filter($spot, function($entry) {{
      $node.{contract.MARKET} = '{contract.SPOT}'
      and $entry.type = $node.{contract.INSTANCE_TYPE} and $entry.zone = $node.{contract.ZONE}
    }}).usd;
    $listed := $filter($states.result, function($entry) {{ $entry.type = $node.{contract.INSTANCE_TYPE} }}).usd;
    $own := $lookup($given, $node.{contract.INSTANCE_TYPE});
    $count($there) > 0 ? $max($there) : $exists($own) ? $own : $count($listed) > 0 ? $max($listed) : 0
  ) }});
  $whole := $sum($usd) * $request.{contract.GPUS} / $ring.{contract.GPUS};
  $total := $min($usd) > 0 ? $max([$whole, $price.{contract.USD_PER_HOUR}]) : 0;
  $from := $floor($toMillis($times.asked_at) / 1000);
  $missing := $distinct($filter({nodes}, function($node, $place) {{ $usd[$place] = 0 }}).{contract.INSTANCE_TYPE});
  $total > 0 ? {{
    '{contract.USD_PER_HOUR}': $total,
    '{contract.BILLED_FROM}': $from,
    '{contract.CEILING_USD}': {ceiling},
    '{contract.CEILING_AT}': $from + $floor({ceiling} / $total * 3600)
  }} : {{
    '{contract.USD_PER_HOUR}': 0,
    '{contract.CEILING_AT}': 0,
    '{contract.NOTICE}': 'The ceiling of ' & {ceiling} & ' USD is not watched: no price is known for '
      & $join($missing, ', ') & '. Only the time limit holds.'
  }}
)"""


def _record(scope: Construct, name: str, *, ledger: Ledger, attributes: Mapping[str, str]) -> sfn.TaskStateBase:
    def value(attribute: str, kind: str) -> str:
        found = f"$price.{attribute}"
        return jsonata(f"$string({found})" if kind == "N" else found)

    return call_aws(
        scope,
        name,
        service="dynamodb",
        action="updateItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": RUN_KEY,
            "UpdateExpression": "SET " + ", ".join(f"#{attribute} = :{attribute}" for attribute in attributes),
            "ExpressionAttributeNames": {f"#{attribute}": attribute for attribute in attributes},
            "ExpressionAttributeValues": {
                f":{attribute}": {kind: value(attribute, kind)} for attribute, kind in attributes.items()
            },
        },
        resources=[ledger.table.table_arn],
    )
