"""
The second layer: what a run's own workflow cannot do once its execution has been stopped or has run out of time.

Started by an event for every execution that did not succeed, also for those that cleaned up after themselves: then
nothing is left to do here. It acts only on the fleet that this very execution still holds.
"""

from __future__ import annotations

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow import closing, lease, line
from cdk_horovod.workflow.emptying import NOT_BEGUN, Emptying
from cdk_horovod.workflow.execution import describe_the_execution
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.receipt import leave_a_receipt
from cdk_horovod.workflow.states import CONDITION_FAILED, NO_OUTPUT, RUN_KEY, call_aws, jsonata, run_id
from horovod_node import contract

RETRIES = 10
"""At 1, 3, 9, 27 and then 60 seconds: an outage of some seven minutes."""


def clean_up_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    bucket: s3.IBucket,
    ledger: Ledger,
    queue: str,
    limits: RunLimits,
    executions: list[str],
) -> sfn.IChainable:
    """
    Build the graph: take the lease from the stopped run, empty its fleet, write its receipt, give the fleet back.

    Repeating it is harmless: whoever comes second finds that the lease is no longer the run's.

    Args:
        executions: ARNs of the executions of the run's state machine, for the permission.
    """
    done = sfn.Succeed.jsonata(scope, "Nothing is left", outputs=NO_OUTPUT)
    release = lease.release(scope, ledger=ledger)
    release.add_catch(done, errors=[CONDITION_FAILED]).next(done)
    close = closing.close_a_stopped_run(scope, ledger=ledger)
    close.add_catch(release).next(release)
    receipt = leave_a_receipt(scope, bucket=bucket, training=queue, ledger=ledger, writer="clean-up", then=close)
    emptying = Emptying(
        scope,
        states=engine.states,
        ledger=ledger,
        hold=limits.hold,
        pause=limits.poll_interval,
        empty=receipt,
        lost=receipt,
    )
    take = lease.take_from(
        scope,
        ledger=ledger,
        holder=contract.CLEAN_UP,
        condition="#execution = :stopped",
        values={":stopped": {"S": jsonata("$execution.arn")}},
        run="$run",
        seconds=limits.hold,
        retries=RETRIES,
    )
    # Somebody else's, or nobody's: there is nothing to empty.
    take.add_catch(receipt, errors=[CONDITION_FAILED]).next(emptying.terminate)
    which = (
        sfn.Choice.jsonata(scope, "Did it reserve a fleet?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$exists($fleet.group)")), take)
        .otherwise(receipt)
    )
    read = _read_the_run(scope, ledger=ledger)
    read.next(which)
    leave = line.leave_the_line(scope, ledger=ledger, queue=queue)
    leave.add_catch(read).next(read)
    describe = describe_the_execution(scope, "Describe the run", arn="$arn", executions=executions, retries=RETRIES)
    describe.next(leave)
    begin = sfn.Pass.jsonata(
        scope,
        "Take the event",
        assign={
            "run": jsonata("$states.input.detail.name"),
            # EventBridge gives milliseconds (Step Functions Developer Guide, "Automating Step Functions event delivery
            # with EventBridge").
            "run_id": jsonata(
                run_id(queue, name="$states.input.detail.name", started="$fromMillis($states.input.detail.startDate)")
            ),
            "arn": jsonata("$states.input.detail.executionArn"),
            "fleet": {"id": jsonata("''")},
            "fleets": engine.fleets_in_order,
            "emptying": NOT_BEGUN,
        },
        outputs=NO_OUTPUT,
    )
    return begin.next(describe)


def _read_the_run(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Find the fleet that the run was given: its item names it from the very moment on at which it had the lease."""
    named = f"$states.result.Item.{contract.FLEET}.S"
    return call_aws(
        scope,
        "Read the run",
        service="dynamodb",
        action="getItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": RUN_KEY,
            "ProjectionExpression": "#fleet",
            "ExpressionAttributeNames": {"#fleet": contract.FLEET},
            "ConsistentRead": True,
        },
        resources=[ledger.table.table_arn],
        assign={
            "fleet": jsonata(
                f"""(
  $named := $filter($fleets, function($fleet) {{ $fleet.id = {named} }});
  $count($named) > 0 ? $named[0] : {{'id': $exists({named}) ? {named} : ''}}
)"""
            )
        },
        retries=RETRIES,
    )
