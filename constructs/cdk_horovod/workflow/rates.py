"""What an instance costs an hour, as the one rule that every expression of the state machines uses."""

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
JSONata that defines `$price_of(type, market, zone)` and `$listed(type)`, both in USD an hour, over `$prices`.

`$prices` is a list as `contract.PRICES_JSON` describes it. The price of the zone counts. Where none is known it is the
dearest of the same market, and then On-Demand; never Spot for what is On-Demand. A type of which nothing is known gives
nothing. `price_of` of `horovod_client` is the same rule for clients, and a test holds the two against each other.
"""
