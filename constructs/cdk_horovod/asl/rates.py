"""The rule for an instance's hourly price, which all expressions of the state machines use."""

from __future__ import annotations

from typing import Final

from horovod_node import contract

PRICE_OF: Final = f"""
  $dearest := function($rows) {{ $count($rows) > 0 ? $max([$rows.usd]) }};
  $listed := function($type) {{
    $dearest([$filter($prices, function($price) {{
      $price.instance_type = $type and $price.market = '{contract.ON_DEMAND}'
    }})])
  }};
  $price_of := function($type, $market, $zone) {{ (
    $alike := [$filter($prices, function($price) {{ $price.instance_type = $type and $price.market = $market }})];
    $here := [$filter($alike, function($price) {{ $price.zone = '' or $price.zone = $zone }})];
    $count($here) > 0 ? $dearest($here) : $count($alike) > 0 ? $dearest($alike) : $listed($type)
  ) }};
"""
"""
JSONata that defines `$price_of(type, market, zone)` and the On-Demand price `$listed(type)`, both in USD an hour.

Both read `$prices`, a list as described in `contract.PRICES_JSON`. The price of the zone counts; if it is unknown, the
highest price of the same market; if that is unknown, the On-Demand price. A Spot price is never used for On-Demand. For
a type without prices both return nothing. `price_of` of `horovod_client` is the same rule for clients; a test compares
the two.
"""
