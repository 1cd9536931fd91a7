"""
The arithmetic of a receipt: nodes and their times, costs, and the duration of each part of the run.

The nodes of a run may fit neither into one answer of DynamoDB nor into one variable of Step Functions, which holds 256
KiB (Step Functions Developer Guide, "Service quotas"). So they are read in pages, each of which is added to `$tally`
(`ADD_THE_PAGE`); `ACCOUNTS` then computes the totals.

The newest attempt is read first. A machine that took part in several attempts has an item in each of them but must be
billed once, so `$tally` holds the machines of the last `REMEMBERED_PAGES` pages by name. This is exact while an attempt
has at most `REMEMBERED_NODES` nodes, because every remaining machine joins every attempt, and the items of an attempt
are sorted by the machine's name. Older machines are reduced to sums.

Malformed items of nodes cannot break this. DynamoDB's filter leaves out items with texts that are too long and numbers
that are not numbers (see `workflow.receipt`), the expressions leave out texts with characters that names do not have,
and both are counted.
"""

from __future__ import annotations

from typing import Final

from cdk_horovod.asl.rates import PRICE_OF
from horovod_node import contract

STILL_THERE_SECONDS: Final = 20
"""A node that was seen within this time of the last sighting of any node was there until the end."""

PAGE: Final = 50
"""Items on a page. `test_receipt.py` shows that a page of the largest admitted items fits into a result."""
MOST_PAGES: Final = 400
"""Most pages, 20,000 items: 700 nodes in 21 attempts have 14,700. A page adds 7 of an execution's 25,000 events."""
REMEMBERED_PAGES: Final = 16
REMEMBERED_NODES: Final = PAGE * REMEMBERED_PAGES
MOST_LISTED: Final = 128
"""Most nodes that a receipt lists individually; it sums up the others."""

_NOTHING: Final = {"count": 0, "gpu_seconds": 0, "usd": 0, "on_demand_usd": 0, "unpriced": 0, "unlisted": 0}


def unread(*asks: str) -> dict[str, object]:
    """
    Return `$tally` before anything was read.

    Args:
        asks: Prefixes of the sort keys to query, in this order; that of nodes is the last.
    """
    return {
        "asks": [{"prefix": ask} for ask in asks],
        "from": f"{asks[0]}~",
        "unread": True,
        "failed": False,
        "stopped": False,
        "page": 0,
        "left_out": 0,
        "listed": 0,
        "last": {},
        "nodes": {},
        "settled": _NOTHING,
        "progress": {},
        "earlier": {},
    }


def asks_of(asks: str, fleets: str) -> str:
    """
    Return the expression of what is asked if a run has left fleets.

    Args:
        asks: Expression of the `asks` of a run that has left none.
        fleets: Expression of the list of the fleets that it has left.
    """
    return (
        f"$append({asks}, $append("
        + ", ".join(
            f"$map({fleets}, function($fleet) {{ {{'prefix': '{prefix}', 'fleet': $fleet.id}} }})"
            for prefix in (contract.PROGRESS_SORT_KEY, contract.NODE_PREFIX)
        )
        + "))"
    )


_SETTLE: Final = """
  $cost := function($span, $rate) { $exists($rate) and $not($exists($span.j)) ? $span.seconds * $rate / 3600 : 0 };
  $lacks := function($span, $rate) { $not($exists($rate) or $exists($span.j)) };
  $settle := function($so_far, $spans) { {
    'count': $so_far.count + $count($spans),
    'gpu_seconds': $so_far.gpu_seconds + $sum($map($spans, function($span) { $span.g * $span.seconds })),
    'usd': $so_far.usd + $sum($map($spans, function($span) { $cost($span, $span.r) })),
    'on_demand_usd': $so_far.on_demand_usd + $sum($map($spans, function($span) { $cost($span, $span.o) })),
    'unpriced': $so_far.unpriced + $count($filter($spans, function($span) { $lacks($span, $span.r) })),
    'unlisted': $so_far.unlisted + $count($filter($spans, function($span) { $lacks($span, $span.o) }))
  } };
"""
"""
Defines `$settle(sum, spans)`.

A span has `g` (GPUs), `seconds`, `r` and `o` (its price and the On-Demand price), and `j` if it is in a job's bill.
"""

_MILLION: Final = 1_000_000


def _number(attribute: str) -> str:
    return f"$number($item.{attribute}.N)"


_ROWS: Final = f"""
  $ask := $tally.asks[0].prefix;
  $elsewhere := $tally.asks[0].fleet;
  $place := $exists($elsewhere) ? $elsewhere : 'here';
  $items := [$states.result.Items];
  $page := $tally.page + 1;
  $more := $ask = '{contract.NODE_PREFIX}' and $exists($states.result.LastEvaluatedKey.{contract.SORT_KEY}.S);
  $stopped := $more and $page >= {MOST_PAGES};
  $asks := $stopped ? [] : $more ? $tally.asks : [$filter($tally.asks, function($name, $place) {{ $place > 0 }})];

  $name_like := function($text) {{ $type($text) = 'string' and $not($contains($text, /[^A-Za-z0-9.:-]/)) }};
  $printable := function($text) {{ $type($text) = 'string' and $not($contains($text, /[^!-~]/)) ? $text }};
  $is_number := function($value) {{ $type($value) = 'number' }};

  $read := $ask != '{contract.NODE_PREFIX}' ? [] : [$map($items, function($item) {{ {{
    'n': $item.{contract.NODE}.S,
    'g': {_number(contract.GPUS)},
    'type': $item.{contract.INSTANCE_TYPE}.S,
    'market': $item.{contract.MARKET}.S,
    'zone': $item.{contract.ZONE}.S,
    'address': $item.{contract.ADDRESS}.S,
    'interruption': $item.{contract.INTERRUPTION}.S,
    'image': $printable($item.{contract.IMAGE}.S),
    'version': $printable($item.{contract.LIBRARY_VERSION}.S),
    'booted': {_number(contract.BOOTED_AT)},
    'pull_began': {_number(contract.PULL_BEGAN_AT)},
    'pulled': {_number(contract.PULLED_AT)},
    'joined': {_number(contract.JOINED_AT)},
    'install_began': {_number(contract.INSTALL_BEGAN_AT)},
    'installed': {_number(contract.INSTALLED_AT)},
    'left': {_number(contract.LEFT_AT)},
    'seen': {_number(contract.SEEN_AT)}
  }} }})];
  $rows := [$filter($read, function($row) {{
    $name_like($row.n) and $name_like($row.type) and $name_like($row.zone) and $name_like($row.address)
    and $row.market in ['{contract.ON_DEMAND}', '{contract.SPOT}']
    and ($not($exists($row.interruption)) or $name_like($row.interruption))
    and $is_number($row.g) and $is_number($row.joined) and $is_number($row.seen)
  }})];
"""
"""Defines `$rows`, the nodes of a page as far as they are well-formed, and what is asked next: `$asks`."""

_MACHINES: Final = f"""
  $billed := $append($left.bills, $bills).instance_type;
  $kind := function($row) {{ $row.type & ' ' & $row.market & ' ' & $row.zone }};
  $rates := $merge([{{}}, $map($distinct([$map($rows, $kind)]), function($name) {{ (
    $parts := $split($name, ' ');
    {{$name: {{'r': $price_of($parts[0], $parts[1], $parts[2]), 'o': $listed($parts[0])}}}}
  ) }})]);
  $of_this_page := [$map($distinct([$rows.n]), function($name, $place) {{ (
    $same := [$filter($rows, function($row) {{ $row.n = $name }})];
    $node := $same[0];
    $known := $lookup($tally.nodes, $name);
    $new := $merge([$lookup($rates, $kind($node)), {{'g': $node.g}}, $node.type in $billed ? {{'j': 1}} : {{}},
      $exists($elsewhere) ? {{'w': $elsewhere}} : {{}}, $tally.listed + $place < {MOST_LISTED} ? {{'t': {{
      'instance_type': $node.type, 'market': $node.market, 'zone': $node.zone, 'address': $node.address,
      'interruption': $node.interruption
    }}}} : {{}}]);
    {{$name: $merge([$exists($known) ? $known : $new, {{
      'f': $round($min([$same.booted, $same.joined, $known.f])),
      's': $round($max([$same.seen, $known.s])),
      'l': $max([$same.left, $known.l]),
      'p': $page
    }}])}}
  ) }})];
  $all := $merge([$tally.nodes, $of_this_page]);
  $is_old := function($node) {{ $node.p <= $page - {REMEMBERED_PAGES} and $not($exists($node.t)) }};
  $old := $page > {REMEMBERED_PAGES} ? [$each($all, function($node) {{ $is_old($node) ? $node }})] : [];
  $nodes := $count($old) = 0 ? $all : $merge([{{}}, $sift($all, function($node) {{ $not($is_old($node)) }})]);
"""
"""Defines `$nodes`, the machines that are remembered, and `$old`, those that are settled into sums now."""

_RING_AND_LEADER: Final = f"""
  $formed := $exists($times.ring_at) ? $toMillis($times.ring_at) / 1000 : 0;
  $ring := [$filter($rows, function($row) {{ $row.joined <= $formed + 1 }})];
  $latest := [$filter($ring, function($row) {{ $row.joined = $max([$ring.joined]) }})][0];
  $slowest := $exists($latest) and ($not($exists($tally.slowest)) or $latest.joined > $tally.slowest.joined) ? {{
    'joined': $latest.joined, 'booted': $latest.booted, 'pull_began': $latest.pull_began, 'pulled': $latest.pulled,
    'install_began': $latest.install_began, 'installed': $latest.installed
  }} : $tally.slowest;

  $told := $ask = '{contract.PROGRESS_SORT_KEY}' ? $items[0].{contract.PROGRESS_JSON}.S;
  $far := $exists($told) ? $parse($told);
  $amount := function($value) {{ $is_number($value) and $value >= 0 and $value < {_MILLION * _MILLION} ? $value }};
  $lead := $ask = '{contract.LEADER_PREFIX}' ? $items[0];
  $attempt := $split($lead.{contract.SORT_KEY}.S, '#')[1];
"""
"""Defines `$slowest`, the node that the ring waited for, `$far`, the progress that was told, `$lead` and `$attempt`."""

ADD_THE_PAGE: Final = f"""(
  {PRICE_OF}
  {_SETTLE}
  {_ROWS}
  {_MACHINES}
  {_RING_AND_LEADER}
  $merge([
    $tally,
    {{
      'asks': $asks,
      'from': $more ? $states.result.LastEvaluatedKey.{contract.SORT_KEY}.S : $asks[0].prefix & '~',
      'unread': $count($asks) > 0,
      'stopped': $stopped,
      'page': $page,
      'left_out': $tally.left_out + $states.result.ScannedCount - $states.result.Count + $count($read) - $count($rows),
      'listed': $count([$each($nodes, function($node) {{ $exists($node.t) ? 1 }})]),
      'last': $merge([$tally.last, {{$place: $max([0, $lookup($tally.last, $place), $rows.seen])}}]),
      'nodes': $nodes,
      'settled': $count($old) = 0 ? $tally.settled : $settle($tally.settled, $map($old, function($node) {{
        $merge([$node, {{'seconds': $max([0, $node.l - $node.f, $node.s - $node.f])}}])
      }})),
      'slowest': $slowest,
      'image': $exists($tally.image) ? $tally.image : [$rows.image][0],
      'version': $exists($tally.version) ? $tally.version : [$rows.version][0],
      'leader': $name_like($lead.{contract.NODE}.S) ? $lead.{contract.NODE}.S : $tally.leader,
      'attempts': $exists($attempt) and $contains($attempt, /^[0-9]+$/) and $length($attempt) < 7
        ? $number($attempt) : $tally.attempts
    }},
    $exists($far) and $exists($elsewhere) ? {{'earlier': {{
      'ranks': $amount($far.ranks),
      'steps': $max([$tally.earlier.steps, $amount($far.step)]),
      'repeated': $sum([$tally.earlier.repeated, $amount($far.repeated_steps)]),
      'trained': $sum([$tally.earlier.trained, $amount($far.{contract.TRAINED_GPU_SECONDS})])
    }}}} : {{}},
    $exists($far) and $not($exists($elsewhere)) ? {{'progress': {{
      'ranks': $amount($far.ranks),
      'steps': $amount($far.step),
      'repeated': $amount($far.repeated_steps),
      'trained': $amount($far.{contract.TRAINED_GPU_SECONDS})
    }}}} : {{}}
  ])
)"""
"""Expression of `$tally` after one more page, `$states.result`; it reads `$prices`, `$times`, `$left` and `$bills`."""

_MOMENTS: Final = """
  $epoch := function($time) { $exists($time) ? $toMillis($time) / 1000 };
  $iso := function($time) { $fromMillis($round($time * 1000)) };
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
"""
"""Defines the moments of the run, in epoch seconds."""

_SPANS: Final = f"""
  $spans := [$each($tally.nodes, function($node, $name) {{ (
    $last := $lookup($tally.last, $exists($node.w) ? $node.w : 'here');
    $over := $exists($node.w) ? $filter($left.fleets, function($fleet) {{ $fleet.id = $node.w }}).until : $end;
    $stayed := $node.s >= $last - {STILL_THERE_SECONDS};
    $until := $exists($node.l) ? $max([$node.l, $node.s])
      : $stayed or ($well and $name = $leads) ? $over : $node.s;
    $merge([$node, {{
      'n': $name, 'until': $until, 'seconds': $max([0, $min([$until, $over]) - $node.f]),
      'present': $not($exists($node.w))
        and $max([$node.l, $node.s]) >= ($exists($done) ? $done : $last) - {STILL_THERE_SECONDS}
    }}])
  ) }})];
  $money := function($seconds, $rate) {{ $exists($rate) ? $round($seconds * $rate / 3600, 4) }};
  $nodes := [$map($filter($spans, function($span) {{ $exists($span.t) }}), function($span) {{ $merge([$span.t, {{
    'node': $span.n, 'gpus': $span.g, 'from': $iso($span.f), 'until': $iso($span.f + $span.seconds),
    'usd_per_hour': $span.r, 'usd': $money($span.seconds, $span.r), 'on_demand_usd': $money($span.seconds, $span.o)
  }}]) }})];
  $sums := $settle($tally.settled, $spans);
  $rest := $settle($tally.settled, [$filter($spans, function($span) {{ $not($exists($span.t)) }})]);
  $more_nodes := $rest.count > 0 ? $merge([
    {{'count': $rest.count, 'gpu_seconds': $round($rest.gpu_seconds, 1)}},
    $rest.unpriced = 0 and $count($bills) = 0 ? {{'usd': $round($rest.usd, 4)}} : {{}},
    $rest.unlisted = 0 and $count($bills) = 0 ? {{'on_demand_usd': $round($rest.on_demand_usd, 4)}} : {{}}
  ]);
"""
"""Defines how long each node was there (`$spans`, `$sums`), and what of it is listed (`$nodes`, `$more_nodes`)."""

_SECONDS: Final = """
  $slowest := $tally.slowest;
  $within := function($time) { $min([$max([$time, $begin]), $formed]) };
  $up := $exists($slowest) ? $within($exists($slowest.booted) ? $slowest.booted : $slowest.joined) : $formed;
  $pulls := $exists($slowest.pull_began) and $exists($slowest.pulled);
  $pulling := $exists($slowest) ? $max([$up, $within($pulls ? $slowest.pull_began : $slowest.joined)]) : $formed;
  $pulled := $pulls ? $max([$pulling, $within($slowest.pulled)]) : $pulling;
  $here := $exists($slowest.booted) or $pulls ? $pulled : $up;
  $installs := $exists($slowest.install_began) and $exists($slowest.installed);
  $installing := $installs ? $max([$here, $within($slowest.install_began)]);
  $installed := $installs ? $max([$installing, $within($slowest.installed)]);
  $worked := $exists($formed) ? ($exists($done) ? $done : $broken);
  $kept := $exists($done) ? ($exists($stored) ? $stored : $broken);
  $over := $exists($stopped) ? $stopped : $stored;
  $seconds := {
    'queue': $exists($reserved) ? $reserved - $began : $broken - $began,
    'lost': $exists($passed.restarted_at) and $exists($asked) ? $begin - $asked,
    'capacity': $exists($formed) ? $up - $begin : $exists($begin) ? $broken - $begin,
    'boot': $exists($formed) and $exists($slowest.booted) ? $pulling - $up,
    'pull': $exists($formed) and $pulls ? $pulled - $pulling,
    'join': $exists($formed) ? $formed - $here - ($installs ? $installed - $installing : 0),
    'install': $exists($formed) and $installs ? $installed - $installing,
    'train': $exists($worked) ? $worked - $formed,
    'save': $exists($kept) ? $kept - $done,
    'terminate': $exists($asked) and $exists($over) ? $end - $over
  };
  $seconds := $merge([{}, $each($seconds, function($value, $part) {
    {$part: $round($max([0, $value]), 3)}
  })]);
"""
"""Defines `$seconds`, where the run's time went."""

_MONEY: Final = f"""
  $steps := $exists($work.steps) ? $work.steps : 0;
  $tried := $steps + ($exists($work.repeated) ? $work.repeated : 0);
  $useful := $exists($work.trained) ? $work.trained * ($tried > 0 ? $steps / $tried : 1);
  $gpu_seconds := {{
    'billed': $round($sums.gpu_seconds, 1),
    'useful': $exists($useful) ? $round($useful, 1),
    'ratio': $exists($useful) and $sums.gpu_seconds > 0 ? $round($useful / $sums.gpu_seconds, 4)
  }};

  $there := $sums.count > 0;
  $of_jobs := function($seconds) {{
    $sum([0, $map($bills, function($job) {{ $seconds($job) * $job.nodes * $listed($job.instance_type) / 3600 }})])
  }};
  $priced := ($there or $count($bills) > 0) and $sums.unpriced = 0
    and $count($filter($bills, function($job) {{ $not($exists($listed($job.instance_type))) }})) = 0;
  $compared := $priced and $sums.unlisted = 0;
  $usd := $priced ? $sums.usd + $of_jobs(function($job) {{ $job.billed_seconds }});
  $on_demand := $compared ? $sums.on_demand_usd + $of_jobs(function($job) {{ $job.seconds }});
  $bill := {{
    'usd': $priced ? $round($usd, 4),
    'on_demand_usd': $compared ? $round($on_demand, 4),
    'saved_usd': $compared ? $round($on_demand - $usd, 4),
    'usd_per_hour': $priced and $there ? $round($sum([0, $filter($spans, function($span) {{ $span.present }}).r]), 4)
  }};
  $types := $distinct($append($nodes.instance_type, $bills.instance_type));
  $listings := [$map($filter($prices, function($price) {{
    $price.market = '{contract.ON_DEMAND}' and $price.instance_type in $types
  }}), function($price) {{
    {{'instance_type': $price.instance_type, 'usd_per_hour': $price.usd, 'source': $price.source}}
  }})];
"""
"""
Defines `$gpu_seconds`, `$there`, `$bill` and `$listings`.

What a provider bills for whole jobs (`$bills`) counts more than the times of their nodes.
"""

ACCOUNTS: Final = f"{PRICE_OF}{_SETTLE}{_MOMENTS}{_SPANS}{_SECONDS}{_MONEY}"
"""
Computes the totals within a receipt's expression.

The expression must first set `$passed` (all `times` of the run), `$well` (whether it succeeded), `$leads` (the leader,
or '') and `$work` (`ranks`, `steps`, `repeated`, `trained`, as far as known). This sets `$nodes`, `$more_nodes`,
`$seconds`, `$gpu_seconds`, `$there` (whether there were nodes), `$bill` and `$listings` (the On-Demand prices of the
listed nodes' types, with their sources).
"""
