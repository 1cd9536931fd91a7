"""
What a ring costs, for its ceiling: worked out when the ring is formed, from the prices that the run has (`$prices`).

A ring that began with fewer GPUs than were asked for may grow: what counts is what all of them would cost. A run that
started again has cost what its dearest ring costs, from the first start of nodes on. So neither growth nor a restart
takes a run over its ceiling.

When a price is missing the run goes on under its time limit alone, and says so.
"""

from __future__ import annotations

from typing import Any, Final

from cdk_horovod.asl.states import jsonata
from cdk_horovod.workflow.rates import PRICE_OF
from horovod_node import contract

UNKNOWN: Final[dict[str, Any]] = {contract.USD_PER_HOUR: 0, contract.CEILING_AT: 0}
"""`$price` before there is a ring, and of a run without a ceiling."""

ATTRIBUTES: Final = (
    contract.USD_PER_HOUR,
    contract.BILLED_FROM,
    contract.CEILING_USD,
    contract.CEILING_AT,
    contract.NOTICE,
)
"""What the run's item tells of `$price`: members that are there and not 0."""

_RING: Final = "$states.result"
_NODES: Final = f"{_RING}.{contract.NODES}"
_CEILING: Final = f"$request.{contract.MAX_COST_USD}"

PRICE: Final = jsonata(
    f"""(
  {PRICE_OF}
  $usd := $map({_NODES}, function($node) {{ (
    $found := $price_of($node.{contract.INSTANCE_TYPE}, $node.{contract.MARKET}, $node.{contract.ZONE});
    $exists($found) ? $found : 0
  ) }});
  $whole := $sum($usd) * $request.{contract.GPUS} / {_RING}.{contract.GPUS};
  $total := $min($usd) > 0 ? $max([$whole, $price.{contract.USD_PER_HOUR}]) : 0;
  $from := $floor($toMillis($times.asked_at) / 1000);
  $missing := $distinct($filter({_NODES}, function($node, $place) {{ $usd[$place] = 0 }}).{contract.INSTANCE_TYPE});
  $not($exists({_CEILING})) ? {{'{contract.USD_PER_HOUR}': 0, '{contract.CEILING_AT}': 0}}
  : $total > 0 ? {{
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
)
"""`$price` of the ring that the leader answers with."""
