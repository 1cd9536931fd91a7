"""
What a ring costs, for its ceiling: worked out when the ring is formed, from the prices that the run has (`$prices`).

A ring that began with fewer GPUs than were asked for may grow: what counts is what all of them would cost. A run that
started again has cost what its dearest ring costs, from the first start of nodes on. So neither growth nor a restart
takes a run over its ceiling.

When a price is missing the run goes on under its time limit alone, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow.item_update import update_item
from cdk_horovod.workflow.rates import PRICE_OF
from cdk_horovod.workflow.states import NO_OUTPUT, RUN_KEY, assign_safely, jsonata
from horovod_node import contract

UNKNOWN = {
    contract.USD_PER_HOUR: 0,
    contract.CEILING_AT: 0,
    contract.NOTICE: "The ceiling is not watched: prices could not be looked up. Only the time limit holds.",
}
"""`$price` before it is looked up, and when even that fails."""


def price_the_ring(scope: Construct, *, ledger: Ledger, then: sfn.IChainable) -> sfn.State:
    """
    Build the states that set `$price` and write it, or the notice that it is unknown, into the run's item.

    Args:
        scope: Of the states.
        ledger: Where the run's item is.
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
    price = assign_safely(scope, "Price the ring", assign={"price": jsonata(_PRICE)})
    price.add_catch(priced).next(priced)
    return (
        sfn.Choice.jsonata(scope, "Ceiling set?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"$exists($request.{contract.MAX_COST_USD})")), price)
        .otherwise(then)
    )


_NODES = f"$ring.{contract.NODES}"
_CEILING = f"$request.{contract.MAX_COST_USD}"
_PRICE = f"""(
  {PRICE_OF}
  $usd := $map({_NODES}, function($node) {{ (
    $found := $price_of($node.{contract.INSTANCE_TYPE}, $node.{contract.MARKET}, $node.{contract.ZONE});
    $exists($found) ? $found : 0
  ) }});
  $whole := $sum($usd) * $request.{contract.GPUS} / $ring.{contract.GPUS};
  $total := $min($usd) > 0 ? $max([$whole, $price.{contract.USD_PER_HOUR}]) : 0;
  $from := $floor($toMillis($times.asked_at) / 1000);
  $missing := $distinct($filter({_NODES}, function($node, $place) {{ $usd[$place] = 0 }}).{contract.INSTANCE_TYPE});
  $total > 0 ? {{
    '{contract.USD_PER_HOUR}': $total,
    '{contract.BILLED_FROM}': $from,
    '{contract.CEILING_USD}': {_CEILING},
    '{contract.CEILING_AT}': $from + $floor({_CEILING} / $total * 3600)
  }} : {{
    '{contract.USD_PER_HOUR}': 0,
    '{contract.CEILING_AT}': 0,
    '{contract.NOTICE}': 'The ceiling of ' & {_CEILING} & ' USD is not watched: no price is known for '
      & $join($missing, ', ') & '. Only the time limit holds.'
  }}
)"""


def _record(scope: Construct, name: str, *, ledger: Ledger, attributes: Mapping[str, str]) -> sfn.TaskStateBase:
    def value(attribute: str, kind: str) -> str:
        found = f"$price.{attribute}"
        return jsonata(f"$string({found})" if kind == "N" else found)

    return update_item(
        scope,
        name,
        ledger=ledger,
        key=RUN_KEY,
        update="SET " + ", ".join(f"#{attribute} = :{attribute}" for attribute in attributes),
        names={f"#{attribute}": attribute for attribute in attributes},
        values={f":{attribute}": {kind: value(attribute, kind)} for attribute, kind in attributes.items()},
    )
