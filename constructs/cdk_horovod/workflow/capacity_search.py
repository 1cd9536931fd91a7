"""
The search for capacity: what follows when a ring does not form.

`$search` is all that a run knows of it: `number` and `attempt` (of the fleet's plan, from 1), `since` (epoch seconds),
`starts` (how often nodes were asked for, in the whole run), `again` (how often this attempt was repeated), `refusal`
(the provider's words on the last attempt that failed), `log` (every attempt made, for the receipt) and `step` (what
follows: `wait`, `look`, `start`, `empty` or `fail`).

An attempt is one of these objects: `words`, `seconds` and `heartbeat` (how long the ring may take, and its first node),
`patient` (whether its nodes have had their full time), `empties`, `market`, `base` (GPUs that are On-Demand in any
case), `families` (of its types, as quotas go by them), and what the engine's own states read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cdk_horovod.asl.states import NOW, jsonata
from cdk_horovod.engines.engine import EngineConfig, FleetConfig
from cdk_horovod.workflow.run_timeouts import REPEATS, STARTS, RunTimeouts
from horovod_node import contract

NO_SEARCH: Final[Mapping[str, Any]] = {"log": []}
"""`$search` of a run that has no fleet."""

MOST_FLEETS_BYTES: Final = 160_000
"""
Of the fleets in a run's variable: Step Functions takes 256 KiB for all variables that one state sets ("Passing data
between states with variables" in its guide), the request among them.
"""

WORDS_KEPT: Final = 600
"""Characters of the provider's words that are kept of each attempt: there may be many in one run."""

# The words of EC2 and of Auto Scaling in a scaling activity's StatusMessage. Sources: EC2 Auto Scaling User Guide,
# "Troubleshoot EC2 Auto Scaling: EC2 instance launch failures"; EC2 API Reference, "Error codes".
SPOT_QUOTA: Final = "MaxSpotInstanceCountExceeded|[Mm]ax spot instance count exceeded"
ON_DEMAND_QUOTA: Final = (
    "VcpuLimitExceeded|InstanceLimitExceeded|than your current vCPU limit|instance.s. are already running"
)
NO_CAPACITY: Final = (
    "InsufficientInstanceCapacity|InsufficientReservedInstanceCapacity|ReservationCapacityExceeded"
    "|UnfulfillableCapacity|no Spot capacity available|do not have sufficient"
)
THROTTLED: Final = "RequestLimitExceeded|Request limit exceeded|Throttling|Rate exceeded"

QUOTAS: Final[Mapping[str, Mapping[str, str]]] = {
    contract.SPOT: {
        "g": "L-3819A6DF (All G and VT Spot Instance Requests)",
        "p": "L-7212CCBC (All P4, P3 and P2 Spot Instance Requests; newer ones have their own)",
    },
    contract.ON_DEMAND: {
        "g": "L-DB2E81BA (Running On-Demand G and VT instances)",
        "p": "L-417A185B (Running On-Demand P instances)",
    },
}
"""Service Quotas' codes by market and by the first letter of an instance type; each counts vCPUs."""


def fleets_with_plans(engine: EngineConfig, *, timeouts: RunTimeouts) -> list[dict[str, Any]]:
    """
    Write the fleets as a run's states read them: with what is tried in them, and how long that may take.

    Raises:
        ValueError: If they are too much for a variable.
    """
    fleets = [
        {
            **fleet_json,
            "plan": [_with_times(attempt, timeouts=timeouts) for attempt in fleet.plan],
            "rest": fleet.rest,
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


def longest_forming(fleets: Sequence[FleetConfig], *, timeouts: RunTimeouts) -> int:
    """Give the seconds that a ring may take to form, in the fleet where that is longest."""
    return max(
        int(timeouts.forming([attempt["time_limit"] for attempt in fleet.plan]).to_seconds()) for fleet in fleets
    )


def _with_times(attempt: Mapping[str, Any], *, timeouts: RunTimeouts) -> dict[str, Any]:
    launch, start = int(timeouts.launch_timeout.to_seconds()), int(timeouts.start_timeout.to_seconds())
    seconds = attempt["time_limit"] or start
    rest = {name: value for name, value in attempt.items() if name != "time_limit"}
    # Step Functions wants a timeout longer than its heartbeat.
    times = {"seconds": seconds, "heartbeat": min(launch, seconds - 1), "patient": attempt["time_limit"] is None}
    return {**rest, **times}


def begun(plan: str) -> str:
    """
    Write the expression of `$search` at its begin.

    Args:
        plan: Expression of the fleet's plan.
    """
    return (
        f"{{'number': 1, 'attempt': {plan}[0], 'since': {NOW}, 'starts': 0, 'again': 0, 'refusal': '', 'log': [], "
        "'step': 'start'}"
    )


BEGUN_AGAIN: Final = (
    "$merge([$search, {'attempt': $fleet.plan[$search.number - 1], 'again': 0, 'refusal': '', 'step': 'start'}])"
)
"""
The expression of `$search` when a run starts again: with the attempt that got the nodes that are left.

Another one could be of another market. A group whose On-Demand base or percentage changes replaces its instances ("a
gradual replacement of instances": CloudFormation's reference of `InstancesDistribution`), the leader among them.
"""

ASKED: Final = jsonata(f"$merge([$search, {{'since': {NOW}, 'starts': $search.starts + 1}}])")
"""`$search` when nodes have been asked for."""

FORMED: Final = jsonata(
    f"""$merge([$search, {{'refusal': '', 'log': $append($search.log, [{{
  'attempt': $attempt, 'restarts': $count($lost_attempts), 'number': $search.number, 'words': $search.attempt.words,
  'outcome': 'formed', 'seconds': {NOW} - $search.since, 'said': ''
}}])}}])"""
)
"""`$search` when the ring is formed."""

CAPACITY_JSON: Final = jsonata(
    """$string({
  'number': $search.number, 'of': $count($fleet.plan), 'attempt': $search.attempt.words, 'since': $search.since,
  'refusal': $search.refusal
})"""
)
"""What the run's item tells of the search, see `contract.CAPACITY_JSON`."""


def looked_at(gpus: str, *, timeouts: RunTimeouts) -> dict[str, Any]:
    """
    Write the `Assign` that judges what is there when an attempt's time is over.

    If the GPUs are there they only have not formed the ring yet: the attempt got what it was for, and they get the time
    of nodes that boot.

    Args:
        gpus: Expression of the GPUs that are there or being started.
        timeouts: The run's.
    """
    patient = json.dumps(
        {
            "seconds": int(timeouts.start_timeout.to_seconds()),
            "heartbeat": int(timeouts.launch_timeout.to_seconds()),
            "patient": True,
        }
    )
    return {
        "search": jsonata(
            f"""(
  $enough := {gpus} >= $request.{contract.MIN_GPUS};
  $waits := $enough and $not($search.attempt.patient);
  $merge([$search, {{
    'step': $waits ? 'wait' : $enough ? 'fail' : 'look',
    'attempt': $waits ? $merge([$search.attempt, {patient}]) : $search.attempt
  }}])
)"""
        )
    }


UNSEEN: Final = {"search": jsonata("$merge([$search, {'step': 'look'}])")}
"""`Assign` when nobody could say what is there."""


def judged(messages: str, *, asked: bool = True) -> dict[str, Any]:
    """
    Write the `Assign` that decides, from the provider's own words, what follows an attempt that failed.

    Nodes that are there and have time left are waited for, whatever was said. Capacity that is not there is looked for
    by the next attempt. A quota would refuse every attempt that asks for as
    much of the same market, so these are passed over. Throttling says nothing about capacity, and would meet every
    other market and zone, too: the same attempt goes on. When no attempt is left, the run ends, with the words of all.

    Args:
        messages: Expression of the list of what the provider said since `$search.since`.
        asked: Whether it could be asked at all.
    """
    bought = f"$try.market = '{contract.ON_DEMAND}' ? $request.gpus : $min([$request.gpus, $try.base])"
    kind = "$search.step = 'fail' ? 'not formed' : " + (
        "$spot_quota or $on_demand_quota ? 'quota' : $short ? 'capacity' : $throttled ? 'throttling' "
        ": $said != '' ? 'refused' : 'nothing'"
        if asked
        else "'unknown'"
    )
    quotas = {
        market: f"$join($map($search.attempt.families, function($family) {{ $lookup({json.dumps(codes)}, $family) }}), "
        "', ')"
        for market, codes in QUOTAS.items()
    }
    return {
        "search": jsonata(
            f"""$search.step = 'wait' ? $search : (
  $said := $join([$distinct({messages})], ' ');
  $spot_quota := $contains($said, /{SPOT_QUOTA}/);
  $on_demand_quota := $contains($said, /{ON_DEMAND_QUOTA}/);
  $short := $contains($said, /{NO_CAPACITY}/);
  $throttled := $contains($said, /{THROTTLED}/);
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
  $log := $append($search.log, [{{
    'attempt': $attempt, 'restarts': $count($lost_attempts), 'number': $search.number, 'words': $search.attempt.words,
    'outcome': $kind, 'seconds': {NOW} - $search.since, 'said': $substring($said, 0, {WORDS_KEPT})
  }}]);
  $quota := ($spot_quota ? ' The quota of Spot is ' & {quotas[contract.SPOT]} & ' in Service Quotas.' : '')
    & ($on_demand_quota ? ' The quota of On-Demand is ' & {quotas[contract.ON_DEMAND]} & ' in Service Quotas.' : '');
  $tale := $map($filter($log, function($look) {{ $look.restarts = $count($lost_attempts) }}), function($look) {{
    'Attempt ' & $look.number & ' of ' & $count($fleet.plan) & ', ' & $look.words & ', ' & $look.seconds & ' s: '
    & ($look.outcome = 'unknown' ? 'Auto Scaling could not be asked.'
      : $look.said != '' ? 'EC2 said: ' & $look.said
      : $look.outcome = 'not formed' ? 'the nodes were there, see their logs.'
      : 'Auto Scaling reports no failed launch, see the logs of the nodes.')
  }});
  $merge([$search, {{
    'step': $ends ? 'fail' : $repeats or $not($next.empties) ? 'start' : 'empty',
    'number': $number,
    'attempt': $next,
    'again': $repeats ? $search.again + 1 : 0,
    'refusal': $substring($said, 0, {WORDS_KEPT}),
    'log': $log,
    'cause': $substring('The ring of ' & $request.gpus & ' GPUs did not form. ' & $join([$tale], ' ') & $quota, 0,
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
"""`Assign` of the end of the search."""
