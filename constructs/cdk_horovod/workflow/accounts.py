"""
The arithmetic of a receipt, as one JSONata block: who was there and for how long, what that cost, where time went.

Before it a receipt's writer sets `$passed` (the run's `times`, all of them), `$well` (whether it succeeded), `$leads`
(the leader, or ''), `$rows` (one for each node and attempt, see `cdk_horovod.workflow.receipt`), `$rates` (as
`contract.PRICES_JSON`) and `$work` (`ranks`, `steps`, `repeated`, `trained`, as far as known). After it there are
`$nodes`, `$seconds`, `$gpu_seconds`, `$bill` and `$listings`, the On-Demand prices of its nodes' types with their
sources.
"""

from __future__ import annotations

from typing import Final

from horovod_node import contract

STILL_THERE_SECONDS: Final = 20
"""A node whose last sign of life is no older than this when the nodes are released was there until then."""

ACCOUNTS: Final = f"""
  $epoch := function($time) {{ $exists($time) ? $toMillis($time) / 1000 }};
  $iso := function($time) {{ $fromMillis($round($time * 1000)) }};
  $began := $epoch($passed.started_at);
  $reserved := $epoch($passed.reserved_at);
  $asked := $epoch($passed.asked_at);
  $begin := $exists($passed.restarted_at) ? $epoch($passed.restarted_at) : $asked;
  $formed := $epoch($passed.ring_at);
  $done := $epoch($passed.trained_at);
  $stored := $epoch($passed.saved_at);
  $stopped := $exists($passed.failed_at) ? $epoch($passed.failed_at) : $epoch($passed.stopped_at);
  $end := $epoch($passed.terminated_at);
  $broken := $exists($stopped) ? $stopped : $end;
  $freed := $exists($passed.released_at) ? $epoch($passed.released_at) : $end;
  $last := $exists($passed.released_at) ? $freed : $max($rows.seen);

  $listed := function($type) {{
    $max([$filter($rates, function($rate) {{
      $rate.market = '{contract.ON_DEMAND}' and $rate.instance_type = $type
    }}).usd])
  }};
  $rate_of := function($node) {{ (
    $alike := [$filter($rates, function($rate) {{
      $rate.market = $node.market and $rate.instance_type = $node.instance_type
    }})];
    $here := [$filter($alike, function($rate) {{ $rate.zone = '' or $rate.zone = $node.zone }}).usd];
    $count($here) > 0 ? $max($here) : $count($alike) > 0 ? $max([$alike.usd]) : $listed($node.instance_type)
  ) }};
  $spans := [$map($distinct($rows.node), function($name) {{ (
    $same := [$filter($rows, function($row) {{ $row.node = $name }})];
    $node := $same[-1];
    $from := $min([$same.from]);
    $seen := $max([$same.seen]);
    $stayed := $seen >= $last - {STILL_THERE_SECONDS};
    $leader := $name = $leads;
    $until := $max([$from, $leader and ($well or $stayed) ? $end : $stayed ? $freed : $seen]);
    $rate := $rate_of($node);
    $list := $listed($node.instance_type);
    $merge([$node, {{'from': $from, 'until': $until, 'stayed': $stayed, 'rate': $rate, 'list': $list}}])
  ) }})];
  $nodes := [$map($spans, function($span) {{ {{
    'node': $span.node, 'gpus': $span.gpus, 'instance_type': $span.instance_type, 'market': $span.market,
    'zone': $span.zone, 'address': $span.address, 'from': $iso($span.from), 'until': $iso($span.until),
    'usd_per_hour': $span.rate,
    'usd': $exists($span.rate) ? $round(($span.until - $span.from) * $span.rate / 3600, 4),
    'on_demand_usd': $exists($span.list) ? $round(($span.until - $span.from) * $span.list / 3600, 4),
    'interruption': $span.interruption
  }} }})];

  $ring := $sort([$filter($rows, function($row) {{ $exists($formed) and $row.joined <= $formed + 1 }})],
    function($one, $other) {{ $one.joined > $other.joined }});
  $slowest := $ring[-1];
  $within := function($time) {{ $min([$max([$time, $begin]), $formed]) }};
  $up := $exists($slowest) ? $within($exists($slowest.booted) ? $slowest.booted : $slowest.joined) : $formed;
  $pulls := $exists($slowest.pull_began) and $exists($slowest.pulled);
  $pulling := $exists($slowest) ? $max([$up, $within($pulls ? $slowest.pull_began : $slowest.joined)]) : $formed;
  $pulled := $pulls ? $max([$pulling, $within($slowest.pulled)]) : $pulling;
  $worked := $exists($formed) ? ($exists($done) ? $done : $broken);
  $kept := $exists($done) ? ($exists($stored) ? $stored : $broken);
  $over := $exists($stopped) ? $stopped : $stored;
  $seconds := {{
    'queue': $exists($reserved) ? $reserved - $began : $broken - $began,
    'lost': $exists($passed.restarted_at) and $exists($asked) ? $begin - $asked,
    'capacity': $exists($formed) ? $up - $begin : $exists($begin) ? $broken - $begin,
    'boot': $exists($formed) and $exists($slowest.booted) ? $pulling - $up,
    'pull': $exists($formed) and $pulls ? $pulled - $pulling,
    'join': $exists($formed) ? $formed - ($exists($slowest.booted) or $pulls ? $pulled : $up),
    'train': $exists($worked) ? $worked - $formed,
    'save': $exists($kept) ? $kept - $done,
    'terminate': $exists($asked) and $exists($over) ? $end - $over
  }};
  $seconds := $merge([{{}}, $each($seconds, function($value, $part) {{ {{$part: $round($value, 3)}} }})]);

  $billed := $sum([0, $map($spans, function($span) {{ $span.gpus * ($span.until - $span.from) }})]);
  $steps := $exists($work.steps) ? $work.steps : 0;
  $tried := $steps + ($exists($work.repeated) ? $work.repeated : 0);
  $useful := $exists($work.trained) ? $work.trained * ($tried > 0 ? $steps / $tried : 1);
  $gpu_seconds := {{
    'billed': $round($billed, 1),
    'useful': $exists($useful) ? $round($useful, 1),
    'ratio': $exists($useful) and $billed > 0 ? $round($useful / $billed, 4)
  }};

  $there := $count($spans) > 0;
  $priced := $there and $count([$spans.rate]) = $count($spans);
  $usd := $priced ? $round($sum($nodes.usd), 4);
  $full := $priced and $count([$spans.list]) = $count($spans) ? $round($sum($nodes.on_demand_usd), 4);
  $bill := {{
    'usd': $usd,
    'on_demand_usd': $full,
    'saved_usd': $exists($full) ? $round($full - $usd, 4),
    'usd_per_hour': $priced ? $round($sum([0, $filter($spans, function($span) {{ $span.stayed }}).rate]), 4)
  }};
  $listings := [$map($filter($rates, function($rate) {{
    $rate.market = '{contract.ON_DEMAND}' and $rate.instance_type in $rows.instance_type
  }}), function($rate) {{
    {{'instance_type': $rate.instance_type, 'usd_per_hour': $rate.usd, 'source': $rate.source}}
  }})];
"""
