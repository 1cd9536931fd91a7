"""
The state machine of the clean-up, the second layer: it does what a stopped or timed-out execution can no longer do.

An event starts it for every execution that did not succeed, including those that cleaned up after themselves, for which
there is nothing left to do. The reaper starts it with an event of the same form for runs that have ended. It acts only
on the fleet that this execution still holds.

It takes all facts about the execution from the event. It does not call DescribeExecution, whose answer may be older
than the event and still say RUNNING.
"""

from __future__ import annotations

import json
from typing import Final

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, call_aws, entered_as, jsonata, run_id
from cdk_horovod.asl.steps import in_order
from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.termination import foreign_lease
from cdk_horovod.workflow import closing, lease, run_queue
from cdk_horovod.workflow.emptying import NOT_BEGUN, Emptying
from cdk_horovod.workflow.next_fleet import NONE_LEFT
from cdk_horovod.workflow.receipt import UNREAD_BY_ANOTHER, write_the_receipt
from cdk_horovod.workflow.receipt_math import asks_of
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

RETRIES = 10
"""Retries after 1, 3, 9, 27 and then 60 seconds, which bridge an outage of some seven minutes."""

SOURCE_OF_THE_REAPER: Final = "cdk-horovod.reaper"
"""`source` of the reaper's events; that of EventBridge's events is `aws.states`."""


def clean_up_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    bucket: s3.IBucket,
    ledger: Ledger,
    queue: str,
    timeouts: RunTimeouts,
) -> sfn.IChainable:
    """
    Build the graph: take the lease from the stopped run, empty and release its fleet, and write the run's receipt.

    It is idempotent: a second clean-up finds that the run no longer has the lease, and that the receipt exists.
    """
    # The last state has no Catch: if it fails, the reaper removes the run from the queue.
    leave = run_queue.leave_the_queue(scope, ledger=ledger, queue=queue, retries=RETRIES)
    close = closing.close_a_stopped_run(scope, ledger=ledger)
    close.add_catch(leave).next(leave)
    receipt = write_the_receipt(
        scope,
        bucket=bucket,
        training=queue,
        ledger=ledger,
        then=close,
        writer=f"$source = '{SOURCE_OF_THE_REAPER}' ? 'reaper' : 'clean-up'",
        execution="$event.executionArn",
    )
    release = lease.release(scope, ledger=ledger, assign={"times": entered_as("terminated_at")})
    bill = in_order(engine.states.bill(scope), then=receipt)
    release.add_catch(bill).next(bill)
    emptying = Emptying(
        scope,
        states=engine.states,
        ledger=ledger,
        hold=timeouts.hold,
        pause=timeouts.poll_interval,
        empty=release,
        lost=receipt,
    )
    take = foreign_lease.take_from(
        scope,
        ledger=ledger,
        holder=contract.CLEAN_UP,
        condition=f"{lease.MINE} OR #execution = :stopped",
        values={":stopped": {"S": jsonata("$event.executionArn")}},
        run="$run",
        seconds=timeouts.hold,
        retries=RETRIES,
    )
    # Another run or nobody holds the fleet, or the run never had one: there is nothing to empty.
    take.add_catch(receipt, errors=[CONDITION_FAILED]).next(emptying.terminate)
    return _read_the_run(scope, engine=engine, ledger=ledger, training=queue).next(take)


_EVENT: Final = "$states.input.detail"


def _read_the_run(scope: Construct, *, engine: EngineConfig, ledger: Ledger, training: str) -> sfn.TaskStateBase:
    """
    Build the state that sets the variables from the event and the run's item: its fleet, and data for its receipt.

    The item names the fleet from the moment on at which the run had the lease, and only state machines write it. The
    lease of a fleet that no longer belongs to the training cannot be taken.
    """
    attributes = (
        contract.FLEET,
        contract.RECEIPT_AT,
        contract.TIMES_JSON,
        contract.PRICES_JSON,
        contract.RESTARTS_JSON,
        contract.LEFT_JSON,
        contract.USD_PER_HOUR,
        contract.BILLED_FROM,
        contract.CEILING_USD,
    )
    item = "$states.result.Item"
    # EventBridge gives milliseconds (Step Functions Developer Guide, "Automating Step Functions event delivery with
    # EventBridge").
    id_of_the_run = run_id(training, name=f"{_EVENT}.name", started=f"$fromMillis({_EVENT}.startDate)")
    named = f"{item}.{contract.FLEET}.S"

    def parsed(attribute: str, default: str) -> str:
        text = f"{item}.{attribute}.S"
        return f"$exists({text}) ? $parse({text}) : {default}"

    def number(attribute: str) -> str:
        return f"($exists({item}.{attribute}.N) ? $number({item}.{attribute}.N) : 0)"

    left = parsed(contract.LEFT_JSON, json.dumps(NONE_LEFT))
    unread = UNREAD_BY_ANOTHER["tally"]

    return call_aws(
        scope,
        "Read the run",
        service="dynamodb",
        action="getItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": {
                contract.PARTITION_KEY: {"S": jsonata(f"'{contract.RUN_PREFIX}' & {id_of_the_run}")},
                contract.SORT_KEY: {"S": contract.RUN_SORT_KEY},
            },
            "ProjectionExpression": ", ".join(f"#{name}" for name in attributes),
            "ExpressionAttributeNames": {f"#{name}": name for name in attributes},
            "ConsistentRead": True,
        },
        resources=[ledger.table.table_arn],
        assign={
            "event": jsonata(_EVENT),
            "source": jsonata("$states.input.source"),
            "run": jsonata(f"{_EVENT}.name"),
            "run_id": jsonata(id_of_the_run),
            "emptying": NOT_BEGUN,
            "attempt": -1,
            "search": {"log": []},
            "ring": {"gpus": 0},
            "trained": {"ranks": 0},
            "saved": {"bytes": 0},
            **UNREAD_BY_ANOTHER,
            "left": jsonata(left),
            "tally": jsonata(
                f"""(
  $tally := {json.dumps(unread)};
  $left := {left};
  $merge([$tally, {{'asks': {asks_of("$tally.asks", "$left.fleets")}}}])
)"""
            ),
            "fleet": jsonata(
                f"""(
  $left := {left};
  $ours := [$filter({json.dumps(engine.fleets_in_order)}, function($fleet) {{
    $fleet.id = {named} and $not($fleet.id in $left.fleets.id)
  }})];
  $count($ours) > 0 ? $ours[0] : {{'id': ''}}
)"""
            ),
            # Step Functions no longer knows the execution, so there is nothing for a receipt.
            "receipt_written": jsonata(f"{number(contract.RECEIPT_AT)} > 0 or $type({_EVENT}.startDate) != 'number'"),
            "times": jsonata(
                f"""(
  $iso := function($time) {{ $type($time) = 'number' ? $fromMillis($time) }};
  $merge([{parsed(contract.TIMES_JSON, "{}")}, {{
    'started_at': $iso({_EVENT}.startDate), 'stopped_at': $iso({_EVENT}.stopDate)
  }}])
)"""
            ),
            "prices": jsonata(f"[{parsed(contract.PRICES_JSON, '[]')}]"),
            "lost_attempts": jsonata(f"[{parsed(contract.RESTARTS_JSON, '[]')}]"),
            "price": {
                contract.USD_PER_HOUR: jsonata(number(contract.USD_PER_HOUR)),
                contract.BILLED_FROM: jsonata(number(contract.BILLED_FROM)),
                contract.CEILING_USD: jsonata(number(contract.CEILING_USD)),
            },
            "request": jsonata(
                """(
  $text := $states.input.detail.input;
  $request := $type($text) = 'string' ? $parse($text);
  $type($request) = 'object' ? $request : {}
)"""
            ),
            "outcome": {
                "succeeded": False,
                "error": jsonata(_told("error", contract.ERROR_TIMED_OUT, contract.ERROR_ABORTED)),
                "cause": jsonata(
                    _told(
                        "cause",
                        "The execution reached its own time limit.",
                        "The execution was stopped from outside.",
                    )
                ),
            },
        },
        retries=RETRIES,
    )


def _told(member: str, timed_out: str, stopped: str) -> str:
    """Write the expression of *member*, error or cause, with defaults; a stopped execution may have neither."""
    return f"""(
  $told := {_EVENT}.{member};
  {_EVENT}.status = 'TIMED_OUT' ? '{timed_out}' : $type($told) = 'string' and $told != '' ? $told : '{stopped}'
)"""
