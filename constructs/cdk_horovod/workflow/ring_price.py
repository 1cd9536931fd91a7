"""
The hourly price of a ring, and the time at which the run reaches its cost ceiling, computed when the ring has formed.

A ring with fewer GPUs than requested may grow, so the price of all requested GPUs counts. After a restart, the price of
the most expensive ring counts from the first start of nodes on. So neither growth nor a restart exceeds the ceiling.

If a price in `$prices` is missing, only the run's time limit applies, and a notice says so.
"""

from __future__ import annotations

from typing import Any, Final

from cdk_horovod.asl.rates import PRICE_OF
from cdk_horovod.asl.states import jsonata
from horovod_node import contract

UNKNOWN: Final[dict[str, Any]] = {contract.USD_PER_HOUR: 0, contract.CEILING_AT: 0}
"""Value of `$price` before the ring has formed, and for a run without a ceiling."""

ATTRIBUTES: Final = (
    contract.USD_PER_HOUR,
    contract.BILLED_FROM,
    contract.CEILING_USD,
    contract.CEILING_AT,
    contract.NOTICE,
)
"""Members of `$price` that are recorded in the run's item, if present and not 0."""

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
"""Expression of `$price` for the ring in the leader's answer."""
