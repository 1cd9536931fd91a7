"""
The queue in which runs wait for a fleet: first come, first served.

One ledger item holds the whole line, two attributes a run: when it came, and its last look. A run that looks writes
itself in, keeps its place, and reads everybody else's in one atomic call. It may try a fleet when no run that came
before it and still looks could use that fleet. Nobody is woken, so no wake-up can be lost; a run that was stopped does
not look any more and is passed over.
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
"""A run that has not looked for this many intervals is passed over."""


def poll_the_queue(scope: Construct, *, ledger: Ledger, queue: str, interval: Duration) -> sfn.TaskStateBase:
    """Build the state that keeps the run's place and sets `$eligible_fleets`: the fleets that it may try now."""
    patience = LOOKS_MISSED * interval.to_seconds()
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
      $waiter.gpus <= $fleet.max_gpus and $waiter.gpus % $fleet.gpu_step = 0
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
    reserve: sfn.IChainable,
    then: sfn.IChainable,
    leave: sfn.IChainable,
) -> sfn.Choice:
    """Build the choice between *reserve*, a wait before *then*, and, after the queue timeout, *leave*."""
    allowed = queue_timeout.to_seconds()
    wait = sfn.Wait.jsonata(scope, "Wait in the queue", time=sfn.WaitTime.duration(interval), outputs=NO_OUTPUT)
    wait.next(then)
    return (
        sfn.Choice.jsonata(scope, "First in the queue?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$count($eligible_fleets) > 0")), reserve)
        .when(
            sfn.Condition.jsonata(jsonata(f"$millis() - $toMillis($times.started_at) > {allowed * 1000}")),
            leave,
            assign=failure(
                contract.ERROR_QUEUE_TIMEOUT,
                f"'No fleet was free for this run in {allowed} s, the queue_timeout.'",
            ),
        )
        .otherwise(wait)
    )


def leave_the_queue(scope: Construct, *, ledger: Ledger, queue: str, retries: int = 3) -> sfn.TaskStateBase:
    """Build the state that takes the run out of the queue; repeating it is harmless."""
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
    """Write the key of the queue as DynamoDB takes it."""
    partition, sort = contract.queue_key(queue)
    return {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}


def waiters(attributes: str) -> str:
    """
    Write the expression of the list of those who wait: `run`, `place`, `gpus`, `execution`, `seen_at`.

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
        'seen_at': $number($waiter.{contract.SEEN_AT}.N)
      }}
    ) }}
  )"""
