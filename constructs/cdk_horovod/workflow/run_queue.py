"""
The queue in which runs wait for a fleet: first come, first served.

One ledger item holds the whole queue, with two attributes for each run: its place, and its last poll. One atomic call
writes the run's attributes, keeps its place, and returns those of all runs. A run may try a fleet if no earlier run
that still polls could use that fleet. Runs poll instead of being notified, so no notification can get lost; a stopped
run no longer polls, and is skipped.
"""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.item_update import update_item
from cdk_horovod.asl.states import NO_OUTPUT, NOW, failure, jsonata
from cdk_horovod.resources.ledger import Ledger
from horovod_node import contract

_NAMES = {
    "#place": jsonata(f"'{contract.PLACE_PREFIX}' & $run"),
    "#waiter": jsonata(f"'{contract.WAITER_PREFIX}' & $run"),
}

LOOKS_MISSED = 3
"""A run that has not polled for this many intervals is skipped."""


def poll_the_queue(
    scope: Construct, *, ledger: Ledger, queue: str, interval: Duration, engines: int
) -> sfn.TaskStateBase:
    """
    Build the state that keeps the run's place, and sets `$eligible_fleets` to the fleets that it may try now.

    With several engines it also says from which of them the run may still get a fleet: no run waits for one that is
    ahead of it, but has left that engine.
    """
    patience = LOOKS_MISSED * interval.to_seconds()
    says, wants = {}, ""
    if engines > 1:
        says = {contract.WAITER_ENGINES: {"S": jsonata("$join($distinct($fleets.engine), ',')")}}
        wants = "and $fleet.engine in $split($waiter.engines, ',')"
    return update_item(
        scope,
        "Poll the queue",
        ledger=ledger,
        key=queue_key(queue),
        update="SET #place = if_not_exists(#place, :place), #waiter = :waiter",
        names=_NAMES,
        values={
            ":place": {"N": jsonata("$string($millis())")},
            ":waiter": {
                "M": {
                    contract.GPUS: {"N": jsonata("$string($request.gpus)")},
                    contract.EXECUTION: {"S": jsonata("$states.context.Execution.Id")},
                    contract.SEEN_AT: {"N": jsonata(f"$string({NOW})")},
                    **says,
                }
            },
        },
        returns="ALL_NEW",
        assign={
            "eligible_fleets": jsonata(
                f"""(
  $waiters := {waiters("$states.result.Attributes")};
  $alive := $filter($waiters, function($waiter) {{ $waiter.seen_at + {patience} > {NOW} }});
  $mine := $filter($waiters, function($waiter) {{ $waiter.run = $run }}).place;
  $before := $filter($alive, function($waiter) {{
    $waiter.place < $mine or ($waiter.place = $mine and $waiter.run < $run)
  }});
  [$filter($fleets, function($fleet) {{
    $count($filter($before, function($waiter) {{
      $waiter.gpus <= $fleet.max_gpus and $waiter.gpus % $fleet.gpu_step = 0 {wants}
    }})) = 0
  }})]
)"""
            )
        },
    )


def first_in_the_queue(
    scope: Construct,
    *,
    interval: Duration,
    queue_timeout: Duration,
    engines: int,
    reserve: sfn.IChainable,
    then: sfn.IChainable,
    leave: sfn.IChainable,
) -> sfn.Choice:
    """Build the choice of *reserve*, or of a pause before *then*, or of *leave* after the queue timeout."""
    allowed = queue_timeout.to_seconds()
    over = failure(contract.ERROR_QUEUE_TIMEOUT, f"'No fleet was free for this run in {allowed} s, the queue_timeout.'")
    if engines > 1:
        # A run that has left a fleet fails for want of nodes, not of time.
        left = "$count($left.fleets) > 0"
        cause = over["outcome"]["cause"].removeprefix("{% ").removesuffix(" %}")
        over = failure(
            jsonata(f"{left} ? '{contract.ERROR_RING_NOT_FORMED}' : '{contract.ERROR_QUEUE_TIMEOUT}'"),
            f"{left} ? $search.cause & ' No other fleet was free.' : {cause}",
        )
    wait = sfn.Wait.jsonata(scope, "Wait in the queue", time=sfn.WaitTime.duration(interval), outputs=NO_OUTPUT)
    wait.next(then)
    return (
        sfn.Choice.jsonata(scope, "First in the queue?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$count($eligible_fleets) > 0")), reserve)
        .when(
            sfn.Condition.jsonata(jsonata(f"$millis() - $toMillis($times.started_at) > {allowed * 1000}")),
            leave,
            assign=over,
        )
        .otherwise(wait)
    )


def leave_the_queue(scope: Construct, *, ledger: Ledger, queue: str, retries: int = 3) -> sfn.TaskStateBase:
    """Build the state that removes the run from the queue; it is idempotent."""
    return update_item(
        scope,
        "Leave the queue",
        ledger=ledger,
        key=queue_key(queue),
        update="REMOVE #place, #waiter",
        names=_NAMES,
        retries=retries,
    )


def queue_key(queue: str) -> dict[str, dict[str, str]]:
    """Return the key of the queue's item in DynamoDB's JSON."""
    partition, sort = contract.queue_key(queue)
    return {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}


def waiters(attributes: str) -> str:
    """
    Return the expression of the list of queued runs, with `run`, `place`, `gpus`, `execution` and `seen_at`.

    Args:
        attributes: Expression of the queue's item.
    """
    prefix, place = contract.WAITER_PREFIX, contract.PLACE_PREFIX
    return f"""$map(
    $filter($keys({attributes}), function($key) {{ $substringBefore($key, '#') & '#' = '{prefix}' }}),
    function($key) {{ (
      $name := $substringAfter($key, '#');
      $waiter := $lookup({attributes}, $key).M;
      {{
        'run': $name,
        'place': $number($lookup({attributes}, '{place}' & $name).N),
        'gpus': $number($waiter.{contract.GPUS}.N),
        'execution': $waiter.{contract.EXECUTION}.S,
        'seen_at': $number($waiter.{contract.SEEN_AT}.N),
        'engines': $waiter.{contract.WAITER_ENGINES}.S
      }}
    ) }}
  )"""
