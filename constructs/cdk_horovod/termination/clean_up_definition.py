"""
The second layer: what a run's own workflow cannot do once its execution has been stopped or has run out of time.

Started by an event for every execution that did not succeed, also for those that cleaned up after themselves: then
nothing is left to do here. The reaper starts it in the same way, with an event of the same form, for runs that it found
dead. It acts only on the fleet that this very execution still holds.

All that it knows of the execution is in the event. It does not describe the execution: an answer that is older than the
event would say that the run goes on.
"""

from __future__ import annotations

import json
from typing import Final

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, call_aws, entered_as, jsonata, run_id
from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.termination import foreign_lease
from cdk_horovod.workflow import closing, lease, run_queue
from cdk_horovod.workflow.emptying import NOT_BEGUN, Emptying
from cdk_horovod.workflow.receipt import UNREAD_BY_ANOTHER, write_the_receipt
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

RETRIES = 10
"""At 1, 3, 9, 27 and then 60 seconds: an outage of some seven minutes."""

SOURCE_OF_THE_REAPER: Final = "cdk-horovod.reaper"
"""`source` of an event that the reaper made up; that of EventBridge's own is `aws.states`."""


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
    Build the graph: take the lease from the stopped run, empty its fleet, free it, and write the run's receipt.

    Repeating it is harmless: whoever comes second finds that the lease is no longer the run's, and that the receipt is
    there.
    """
    # The last state has no Catch: what it leaves undone, the reaper finds.
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
    release.add_catch(receipt).next(receipt)
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
    # The fleet is somebody else's or nobody's, or the run never had one: there is nothing to empty.
    take.add_catch(receipt, errors=[CONDITION_FAILED]).next(emptying.terminate)
    return _read_the_run(scope, engine=engine, ledger=ledger, training=queue).next(take)


_EVENT: Final = "$states.input.detail"


def _read_the_run(scope: Construct, *, engine: EngineConfig, ledger: Ledger, training: str) -> sfn.TaskStateBase:
    """
    Take what the event tells, and find the fleet that the run was given and what else its receipt needs.

    Its item names the fleet from the very moment on at which it had the lease. Only state machines write it. A fleet
    that is no longer the training's has no lease that could be taken here.
    """
    attributes = (
        contract.FLEET,
        contract.RECEIPT_AT,
        contract.TIMES_JSON,
        contract.PRICES_JSON,
        contract.RESTARTS_JSON,
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
            "fleet": jsonata(
                f"""(
  $ours := [$filter({json.dumps(engine.fleets_in_order)}, function($fleet) {{ $fleet.id = {named} }})];
  $count($ours) > 0 ? $ours[0] : {{'id': ''}}
)"""
            ),
            # Of an execution that is forgotten there is no more to say than that it ended.
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
    """Write the expression of what the event tells as *member*; a stopped execution may have been given nothing."""
    return f"""(
  $told := {_EVENT}.{member};
  {_EVENT}.status = 'TIMED_OUT' ? '{timed_out}' : $type($told) = 'string' and $told != '' ? $told : '{stopped}'
)"""
