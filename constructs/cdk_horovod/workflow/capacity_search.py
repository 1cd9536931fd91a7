"""
The search for capacity: decides what follows when a ring does not form.

`$search` is the state of the search: `number` (from 1) and `attempt` (the current attempt of the fleet's plan), `since`
(its start in epoch seconds), `starts` (how often nodes were requested in the whole run), `looks` (how often the run
looked for nodes that were coming), `again` (how often this attempt was repeated), `refusal` (the provider's message on
the last failed attempt), `log` (all attempts made, for the receipt), `tale` (the same since the last restart, in
sentences) and `step` (what follows: `wait`, `look`, `start`, `empty`, `leave` or `fail`).

An attempt is an object with `words` (its description), `seconds` and `first` (the time for the ring and for its first
node), `patient` (whether that time is already `start_timeout`), `empties` (whether it begins with an empty fleet),
`market`, `leader_market`, `base` (On-Demand base in GPUs), `families` (of its types, because quotas are by family), and
what the engine's states read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cdk_horovod.asl.states import NOW, jsonata
from cdk_horovod.engines.engine import EngineConfig, FleetConfig
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.workflow.run_timeouts import REPEATS, STARTS, RunTimeouts
from horovod_node import contract

NO_SEARCH: Final[Mapping[str, Any]] = {"starts": 0, "looks": 0, "log": [], "tale": jsonata("''")}
"""`$search` of a run that has no fleet."""

MOST_FLEETS_BYTES: Final = 160_000
"""
Most bytes of the fleets in `$fleets`: one state may set 256 KiB of variables ("Passing data between states with
variables" in the guide of Step Functions), and the request is among them.
"""

WORDS_KEPT: Final = 600
"""Characters that are kept of the provider's message on each attempt, because a run may make many."""


def fleets_with_plans(engine: EngineConfig, *, timeouts: RunTimeouts) -> list[dict[str, Any]]:
    """
    Return the fleets as a run's states read them, with the attempts of their plans and the longest time to form a ring.

    Raises:
        ValueError: If they are too large for a variable.
    """
    fleets = [
        {
            **fleet_json,
            "plan": [_with_times(attempt, timeouts=timeouts) for attempt in fleet.plan],
            "rest": fleet.rest,
            **_look(fleet, timeouts=timeouts),
            "longest": int(timeouts.forming([attempt["time_limit"] for attempt in fleet.plan]).to_seconds()),
        }
        for fleet, fleet_json in zip(engine.fleets, engine.fleets_in_order, strict=True)
    ]
    size = len(json.dumps(fleets))
    if size > MOST_FLEETS_BYTES:
        raise ValueError(
            f"'fleets' must be at most {MOST_FLEETS_BYTES} bytes as JSON, with all attempts of their capacity plans "
            f"and the instance types of each, got {size}; use fewer fleets, attempts or instance types"
        )
    return fleets


def _look(fleet: FleetConfig, *, timeouts: RunTimeouts) -> dict[str, int]:
    """Return the fleet's interval of looks, if it has one; it is at least as long as that of leaders' heartbeats."""
    if fleet.look_interval is None:
        return {}
    return {"look": int(max(fleet.look_interval.to_seconds(), timeouts.heartbeat.to_seconds()))}


def longest_forming(fleets: Sequence[FleetConfig], *, timeouts: RunTimeouts) -> int:
    """Return the most seconds that a ring may take to form in any of the fleets."""
    return max(
        int(timeouts.forming([attempt["time_limit"] for attempt in fleet.plan]).to_seconds()) for fleet in fleets
    )


def _with_times(attempt: Mapping[str, Any], *, timeouts: RunTimeouts) -> dict[str, Any]:
    launch, start = int(timeouts.launch_timeout.to_seconds()), int(timeouts.start_timeout.to_seconds())
    seconds = attempt["time_limit"] or start
    rest = {name: value for name, value in attempt.items() if name != "time_limit"}
    # Step Functions requires a timeout longer than the heartbeat.
    times = {"seconds": seconds, "first": min(launch, seconds - 1), "patient": attempt["time_limit"] is None}
    return {**rest, **times}


def begun(plan: str) -> str:
    """
    Return the expression of `$search` at the beginning in a fleet.

    Args:
        plan: Expression of the fleet's plan.
    """
    return (
        f"$merge([$search, {{'number': 1, 'attempt': {plan}[0], 'since': {NOW}, 'again': 0, 'refusal': '', "
        "'step': 'start'}])"
    )


BEGUN_AGAIN: Final = (
    "$merge([$search, {'attempt': $fleet.plan[$search.number - 1], 'again': 0, 'refusal': '', 'tale': '', "
    "'step': 'start'}])"
)
"""
Expression of `$search` when a run starts again, with the attempt that got the remaining nodes.

Another attempt could be of another market, and a group whose On-Demand base or percentage changes replaces its
instances ("a gradual replacement of instances": CloudFormation's reference of `InstancesDistribution`), including the
leader.
"""

REQUESTED: Final = "$search.step = 'wait'"
"""Expression of whether the attempt's nodes have been requested and are on the way."""

LEFT: Final = "$search.step = 'leave'"
"""Expression of whether the run goes on to a fleet of another engine, as soon as nothing runs in this one."""

TO_START: Final = jsonata(
    f"{REQUESTED} ? $search : $merge([$search, {{'since': {NOW}, 'starts': $search.starts + 1}}])"
)
"""`$search` before nodes are requested, if they have not been."""

_MADE: Final = f"""'attempt': $attempt, 'restarts': $count($lost_attempts), 'fleet': $fleet.id,
  'number': $search.number, 'words': $search.attempt.words, 'seconds': {NOW} - $search.since"""
"""Members of an attempt in the log."""

FORMED: Final = jsonata(
    f"""$merge([$search, {{'refusal': '', 'log': $append($search.log, [{{
  {_MADE}, 'outcome': 'formed', 'said': ''
}}])}}])"""
)
"""`$search` after the ring has formed."""

CAPACITY_JSON: Final = jsonata(
    """$string({
  'number': $search.number, 'of': $count($fleet.plan), 'attempt': $search.attempt.words, 'since': $search.since,
  'refusal': $search.refusal
})"""
)
"""The search as recorded in the run's item, see `contract.CAPACITY_JSON`."""


_OVER: Final = f"({NOW} - $search.since >= $search.attempt.first)"
"""Expression of whether the time for the first node is over."""


def looked_at(gpus: str, coming: str, *, timeouts: RunTimeouts) -> dict[str, Any]:
    """
    Return the `Assign` that decides what follows when no node has joined yet, or an attempt's time is over.

    While there is time for the first node, nodes that are there or on the way are waited for. If the GPUs are there
    after that time, the attempt has succeeded and only the ring has not formed yet: its nodes get the time of booting
    nodes, once.

    Args:
        gpus: Expression of the GPUs that run or are starting.
        coming: Expression of whether nodes are on the way that do not count as GPUs yet.
        timeouts: Timeouts of the run.
    """
    patient = json.dumps(
        {
            "seconds": int(timeouts.start_timeout.to_seconds()),
            "first": int(timeouts.launch_timeout.to_seconds()),
            "patient": True,
        }
    )
    return {
        "search": jsonata(
            f"""(
  $enough := {gpus} >= $request.{contract.MIN_GPUS};
  $extended := {_OVER} and $enough and $not($search.attempt.patient);
  $waits := $extended or $not({_OVER}) and ($enough or {coming});
  $merge([
    $search,
    {{'looks': $search.looks + 1, 'step': $waits ? 'wait' : $enough ? 'fail' : 'look'}},
    $extended ? {{'since': {NOW}, 'attempt': $merge([$search.attempt, {patient}])}} : {{}}
  ])
)"""
        )
    }


UNSEEN: Final = {
    "search": jsonata(f"$merge([$search, {{'looks': $search.looks + 1, 'step': {_OVER} ? 'look' : 'wait'}}])")
}
"""`Assign` if the fleet could not be described: the next look may be answered."""


def _of_the_provider(fleets: Sequence[FleetConfig], write: Callable[[ProviderWords], str]) -> str:
    """Return the expression that *write* makes of the words of the provider of `$fleet`."""
    words = {fleet.engine: write(fleet.words) for fleet in fleets}
    *others, last = words.items()
    return "".join(f"$fleet.engine = '{engine}' ? {text} : " for engine, text in others) + last[1]


def judged(messages: str, *, fleets: Sequence[FleetConfig], asked: bool = True) -> dict[str, Any]:
    """
    Return the `Assign` that decides what follows a failed attempt, from the provider's messages.

    - Without capacity, the next attempt follows.
    - A quota would also refuse attempts that need at least as much of the same market, so these are skipped.
    - Throttling says nothing about capacity and would affect other markets and zones, too, so the attempt is repeated.
    - When no attempt is left, the run leaves the fleet for one of another engine, and else fails with all messages.

    Args:
        messages: Expression of the list of the provider's messages since `$search.since`.
        fleets: All fleets, which have the words of their providers.
        asked: Whether the provider could be asked.
    """
    bought = f"$try.market = '{contract.ON_DEMAND}' ? $request.gpus : $min([$request.gpus, $try.base])"
    kind = "$search.step = 'fail' ? 'not formed' : " + (
        "$spot_quota or $on_demand_quota ? 'quota' : $short ? 'capacity' : $throttled ? 'throttling' "
        ": $said != '' ? 'refused' : 'nothing'"
        if asked
        else "'unknown'"
    )

    def said(write: Callable[[ProviderWords], str]) -> str:
        return f"({_of_the_provider(fleets, write)})"

    def quota(market: str) -> str:
        codes = said(lambda words: json.dumps(dict(words.quotas[market])))
        return f"$join($map($search.attempt.families, function($family) {{ $lookup({codes}, $family) }}), ', ')"

    engines = len({fleet.engine for fleet in fleets})
    elsewhere = "$count($filter($fleets, function($other) { $other.engine != $fleet.engine })) > 0"
    leaves = f"$kind != 'not formed' and $search.starts < {STARTS} and {elsewhere} ? 'leave' : " if engines > 1 else ""
    name = "$fleet.engine & ', attempt '" if engines > 1 else "'Attempt '"
    service, provider = said(lambda words: f"'{words.service}'"), said(lambda words: f"'{words.provider}'")
    return {
        "search": jsonata(
            f"""(
  $said := $join([$distinct({messages})], ' ');
  $spot_quota := {said(lambda words: f"$contains($said, /{words.spot_quota}/)")};
  $on_demand_quota := {said(lambda words: f"$contains($said, /{words.on_demand_quota}/)")};
  $short := {said(lambda words: f"$contains($said, /{words.no_capacity}/)")};
  $throttled := {said(lambda words: f"$contains($said, /{words.throttled}/)")};
  $kind := {kind};
  $bought := function($try) {{ {bought} }};
  $hopeless := function($try) {{ (
    $on_demand := $bought($try);
    $spot := $request.gpus - $on_demand;
    $count($filter($try.families, function($family) {{ $not($family in $search.attempt.families) }})) = 0
    and (($spot_quota and $spot > 0 and $spot >= $request.gpus - $bought($search.attempt))
      or ($on_demand_quota and $on_demand > 0 and $on_demand >= $bought($search.attempt)))
  ) }};
  $left := [$filter([1..$count($fleet.plan)], function($number) {{
    $number > $search.number and $not($hopeless($fleet.plan[$number - 1]))
  }})];
  $repeats := $kind in ['throttling', 'unknown'];
  $ends := $kind = 'not formed' or $search.starts >= {STARTS}
    or ($repeats ? $search.again >= {REPEATS} : $count($left) = 0);
  $number := $ends or $repeats ? $search.number : $left[0];
  $next := $fleet.plan[$number - 1];
  $made := {{ {_MADE}, 'outcome': $kind, 'said': $substring($said, 0, {WORDS_KEPT}) }};
  $quota := ($spot_quota ? ' The quota of Spot is ' & {quota(contract.SPOT)} & ' in Service Quotas.' : '')
    & ($on_demand_quota ? ' The quota of On-Demand is ' & {quota(contract.ON_DEMAND)} & ' in Service Quotas.' : '');
  $tale := $search.tale & ' ' & {name} & $made.number & ' of ' & $count($fleet.plan) & ', ' & $made.words & ', '
    & $made.seconds & ' s: ' & ($kind = 'unknown' ? {service} & ' could not be asked.'
      : $said != '' ? {provider} & ' said: ' & $made.said
      : $kind = 'not formed' ? 'the nodes were there, see their logs.'
      : {service} & ' reports no failed launch, see the logs of the nodes.') & $quota;
  $merge([$search, {{
    'step': $ends ? ({leaves}'fail') : $repeats or $not($next.empties) ? 'start' : 'empty',
    'number': $number,
    'attempt': $next,
    'again': $repeats ? $search.again + 1 : 0,
    'refusal': $substring($said, 0, {WORDS_KEPT}),
    'log': $append($search.log, [$made]),
    'tale': $tale,
    'cause': $substring('The ring of ' & $request.gpus & ' GPUs did not form.' & $tale, 0,
      {contract.CAUSE_LIMIT - 1000})
  }}])
)"""
        )
    }


NOT_FORMED: Final = {
    "outcome": {
        "succeeded": False,
        "error": contract.ERROR_RING_NOT_FORMED,
        "cause": jsonata("$search.cause"),
    }
}
"""`Assign` when the search has failed."""
