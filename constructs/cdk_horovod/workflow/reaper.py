"""
The third layer: looks at every fleet from time to time, whatever has or has not been told.

It trusts no event and no memory of its own: what it sees decides. A fleet is left alone while its lease is valid and
its holder's execution runs. Else the reaper takes the lease, under the condition that it is still as it was read,
returns the fleet to zero, and gives the lease back when it sees that nothing is left; if the nodes take longer, the
next round goes on. As an Express execution it ends within five minutes, before its own lease does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aws_cdk import Aws, Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.ledger import Ledger
from cdk_horovod.workflow import closing, lease, line
from cdk_horovod.workflow.execution import DOES_NOT_EXIST, FORGOTTEN, describe_the_execution
from cdk_horovod.workflow.receipt import leave_a_receipt
from cdk_horovod.workflow.states import (
    CONDITION_FAILED,
    NO_OUTPUT,
    NOW,
    call_aws,
    jsonata,
    run_id,
)
from horovod_node import contract

HOLD = Duration.minutes(6)
"""Longer than the five minutes that Step Functions gives an Express execution."""

ERROR_REAPER_FAILED = "ReaperFailed"

METRIC_REAPED = "Reaped"
"""Fleets that the reaper took from the dead."""
METRIC_CAPACITY_WITHOUT_LEASE = "CapacityWithoutLease"
"""GPUs or nodes that a fleet had, or was about to have, although nobody held it."""
METRIC_CEILING_USED = "CeilingUsed"
"""Percent of its ceiling that a run has cost."""


def reaper_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    bucket: s3.IBucket,
    ledger: Ledger,
    queue: str,
    runs: str,
    executions: Sequence[str],
    training: str,
) -> sfn.IChainable:
    """
    Build the graph: every fleet, then every run that waits in line and does not look any more.

    Args:
        runs: What the ARN of a run's execution begins with; the run's name follows.
        executions: ARNs of the executions that may hold a fleet or wait for one, for the permission.
        training: Value of the metrics' dimension.
    """
    fleets = sfn.Map.jsonata(
        scope,
        "Look at every fleet",
        items=sfn.ProvideItems.jsonata(jsonata("$fleets")),
        max_concurrency=4,
        assign={"troubles": jsonata("[$filter($states.result, function($trouble) { $trouble != '' })]")},
        outputs=NO_OUTPUT,
    )
    fleets.item_processor(
        _one_fleet(
            Construct(scope, "Fleet"),
            engine=engine,
            bucket=bucket,
            ledger=ledger,
            queue=queue,
            runs=runs,
            executions=list(executions),
            training=training,
        )
    )
    waiting = sfn.Map.jsonata(
        scope,
        "Look at every silent waiter",
        items=sfn.ProvideItems.jsonata(jsonata("$silent")),
        max_concurrency=4,
        outputs=NO_OUTPUT,
    )
    waiting.item_processor(
        _one_waiter(Construct(scope, "Waiter"), bucket=bucket, ledger=ledger, queue=queue, executions=list(executions))
    )
    trouble = (
        sfn.Choice.jsonata(scope, "Any trouble?", outputs=NO_OUTPUT)
        .when(
            sfn.Condition.jsonata(jsonata("$count($troubles) > 0")),
            sfn.Fail.jsonata(scope, "Failed", error=ERROR_REAPER_FAILED, cause=jsonata("$join($troubles, ' ')")),
        )
        .otherwise(sfn.Succeed.jsonata(scope, "Looked at everything", outputs=NO_OUTPUT))
    )
    waiting.add_catch(trouble).next(trouble)
    read = _read_the_line(scope, ledger=ledger, queue=queue)
    read.add_catch(trouble).next(waiting)
    fleets.next(read)
    begin = sfn.Pass.jsonata(scope, "List the fleets", assign={"fleets": engine.fleets_in_order}, outputs=NO_OUTPUT)
    return begin.next(fleets)


def _one_fleet(
    scope: Construct,
    *,
    engine: EngineConfig,
    bucket: s3.IBucket,
    ledger: Ledger,
    queue: str,
    runs: str,
    executions: list[str],
    training: str,
) -> sfn.IChainable:
    """Look at the fleet in the state's input; the output is '' or what went wrong."""
    states = engine.states
    fine = sfn.Pass.jsonata(scope, "Fleet is fine", outputs=jsonata("''"))
    trouble = sfn.Pass.jsonata(scope, "Note the trouble", outputs=jsonata("$fleet.id & ': ' & $trouble"))
    note = {"trouble": jsonata("$states.errorOutput.Error & ' ' & $states.errorOutput.Cause")}

    # Bottom up: what follows is built first.
    release = lease.release(scope, ledger=ledger)
    release.add_catch(fine, errors=[CONDITION_FAILED]).add_catch(trouble, assign=note).next(fine)
    close = closing.close_a_stopped_run(scope, ledger=ledger)
    close.add_catch(release).next(release)
    receipt = leave_a_receipt(scope, bucket=bucket, training=queue, ledger=ledger, writer="reaper", then=close)
    run_ended = (
        sfn.Choice.jsonata(scope, "Has the run ended?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$execution.status = 'RUNNING'")), release)
        .otherwise(receipt)
    )
    describe_run = describe_the_execution(scope, "Describe the run", arn=f"'{runs}' & $run", executions=executions)
    describe_run.add_catch(release).next(run_ended)
    stopped = (
        sfn.Choice.jsonata(scope, "Was it a run's?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$run = ''")), release)
        .otherwise(describe_run)
    )
    leave = lease.leave_to_the_next_round(scope, ledger=ledger)
    leave.add_catch(fine, errors=[CONDITION_FAILED]).add_catch(trouble, assign=note).next(fine)

    look = states.confirm(scope)
    end, terminate = states.end(scope), states.terminate(scope)
    report = _report(
        scope,
        "Report the find",
        training=training,
        metrics={METRIC_REAPED: ("1", "Count"), METRIC_CAPACITY_WITHOUT_LEASE: ("$found", "Count")},
    )
    report.add_catch(look).next(look)
    end.add_catch(terminate).next(terminate)
    terminate.add_catch(trouble, assign=note).next(report)
    empty = (
        sfn.Choice.jsonata(scope, "Empty now?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$running = 0")), stopped)
        .otherwise(leave)
    )
    take = lease.take_from(
        scope,
        ledger=ledger,
        holder=contract.REAPER,
        condition="attribute_not_exists(#execution) OR (#execution = :seen AND #expiry = :until)",
        values={
            ":seen": {"S": jsonata("$lease.execution")},
            ":until": {"N": jsonata("$string($lease.expires_at)")},
        },
        run="$lease.run",
        seconds=HOLD,
        assign={
            "taken": True,
            "run": jsonata("$lease.run"),
            "run_id": jsonata("$lease.run_id"),
            "found": jsonata("$running"),
        },
    )
    # Somebody was quicker: a run that reserved it, or a holder that lives after all.
    take.add_catch(fine, errors=[CONDITION_FAILED]).add_catch(trouble, assign=note)
    take.next(
        sfn.Choice.jsonata(scope, "Do nodes stay?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$count($staying) > 0")), end)
        .otherwise(terminate)
    )

    alive = _price_of_the_living(scope, ledger=ledger, training=training, then=fine)
    judged = (
        sfn.Choice.jsonata(scope, "Holder alive?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"$execution.status = 'RUNNING' and $lease.expires_at > {NOW}")), alive)
        .otherwise(take)
    )
    describe = describe_the_execution(scope, "Describe the holder", arn="$lease.execution", executions=executions)
    describe.add_catch(judged, errors=[DOES_NOT_EXIST], assign={"execution": FORGOTTEN})
    # Whose execution cannot be described may live: it is left alone until it can.
    describe.add_catch(trouble, assign=note).next(judged)
    lookable = (
        sfn.Choice.jsonata(scope, "Who holds it?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$taken")), empty)
        .when(sfn.Condition.jsonata(jsonata("$lease.holder = '' and $running = 0")), fine)
        .when(sfn.Condition.jsonata(jsonata("$lease.holder = ''")), take)
        # An Express execution cannot be described; its lease says when it is over.
        .when(
            sfn.Condition.jsonata(jsonata(f"$lease.holder = '{contract.REAPER}' and $lease.expires_at > {NOW}")),
            fine,
        )
        .when(sfn.Condition.jsonata(jsonata(f"$lease.holder = '{contract.REAPER}'")), take)
        .otherwise(describe)
    )
    look.add_catch(trouble, assign=note).next(lookable)
    read = lease.read(scope, ledger=ledger)
    read.add_catch(trouble, assign=note).next(look)
    begin = sfn.Pass.jsonata(
        scope,
        "Take the fleet",
        assign={
            "fleet": jsonata("$states.input"),
            "taken": False,
            "run": jsonata("''"),
            "run_id": jsonata("''"),
            "found": 0,
        },
        outputs=NO_OUTPUT,
    )
    return begin.next(read)


def _price_of_the_living(scope: Construct, *, ledger: Ledger, training: str, then: sfn.IChainable) -> sfn.IChainable:
    """Tell how much of its ceiling a run has cost, if it has one."""

    def number(attribute: str) -> str:
        value = f"$states.result.Item.{attribute}.N"
        return f"($exists({value}) ? $number({value}) : 0)"

    used = f"""(
  $from := {number(contract.BILLED_FROM)};
  $ceiling := {number(contract.CEILING_AT)};
  $ceiling > $from ? $round(100 * ($millis() / 1000 - $from) / ($ceiling - $from), 1) : 0
)"""
    read = call_aws(
        scope,
        "Read the run's price",
        service="dynamodb",
        action="getItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": {
                contract.PARTITION_KEY: {"S": jsonata(f"'{contract.RUN_PREFIX}' & $lease.run_id")},
                contract.SORT_KEY: {"S": contract.RUN_SORT_KEY},
            },
            "ProjectionExpression": f"{contract.BILLED_FROM}, {contract.CEILING_AT}",
        },
        resources=[ledger.table.table_arn],
        assign={"used": jsonata(used)},
    )
    report = _report(
        scope,
        "Report the price",
        training=training,
        metrics={METRIC_CEILING_USED: ("$used", "Percent")},
    )
    report.add_catch(then).next(then)
    read.add_catch(then)
    read.next(
        sfn.Choice.jsonata(scope, "Has it a ceiling?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$used > 0")), report)
        .otherwise(then)
    )
    return read


def _read_the_line(scope: Construct, *, ledger: Ledger, queue: str) -> sfn.TaskStateBase:
    """Set `$silent`: the runs that stand in line and have not looked for longer than the reaper's own hold."""
    return call_aws(
        scope,
        "Read the line",
        service="dynamodb",
        action="getItem",
        parameters={"TableName": ledger.table.table_name, "Key": line.line_key(queue), "ConsistentRead": True},
        resources=[ledger.table.table_arn],
        assign={
            "silent": jsonata(
                f"""(
  $item := $exists($states.result.Item) ? $states.result.Item : {{}};
  [$filter({line.waiters("$item")}, function($waiter) {{
    $waiter.seen_at + {HOLD.to_seconds()} < {NOW}
  }})]
)"""
            )
        },
    )


def _one_waiter(
    scope: Construct, *, bucket: s3.IBucket, ledger: Ledger, queue: str, executions: list[str]
) -> sfn.IChainable:
    """Take a run out of the line that was stopped while it waited, and write its receipt."""
    end = sfn.Pass.jsonata(scope, "Waiter is done", outputs=NO_OUTPUT)
    leave = line.leave_the_line(scope, ledger=ledger, queue=queue, name="Take it out of the line")
    leave.add_catch(end).next(end)
    close = closing.close_a_stopped_run(scope, ledger=ledger, name="Close the waiter")
    close.add_catch(leave).next(leave)
    receipt = leave_a_receipt(
        scope, bucket=bucket, training=queue, ledger=ledger, writer="reaper", then=close, of=" of the waiter"
    )
    running = (
        sfn.Choice.jsonata(scope, "Does it run?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$execution.status = 'RUNNING'")), end)
        .otherwise(receipt)
    )
    describe = describe_the_execution(
        scope,
        "Describe the waiter",
        arn="$arn",
        executions=executions,
        assign={"run_id": jsonata(run_id(queue, name="$run", started="$states.result.StartDate"))},
    )
    describe.add_catch(leave, errors=[DOES_NOT_EXIST]).add_catch(end).next(running)
    begin = sfn.Pass.jsonata(
        scope,
        "Take the waiter",
        assign={
            "run": jsonata("$states.input.run"),
            "arn": jsonata("$states.input.execution"),
            "fleet": {"id": jsonata("''")},
        },
        outputs=NO_OUTPUT,
    )
    return begin.next(describe)


def _report(scope: Construct, name: str, *, training: str, metrics: Mapping[str, tuple[str, str]]) -> sfn.CustomState:
    """
    Put metrics: name to the expression of the value and the unit.

    Not `call_aws`, whose permission knows no condition: CloudWatch has no resources to name here, only namespaces
    (`permit_reports`).
    """
    report = sfn.CustomState(
        scope,
        name,
        state_json={
            "Type": "Task",
            "Resource": f"arn:{Aws.PARTITION}:states:::aws-sdk:cloudwatch:putMetricData",
            "Arguments": {
                "Namespace": contract.METRIC_NAMESPACE,
                "MetricData": [
                    {
                        "MetricName": metric,
                        "Dimensions": [{"Name": contract.METRIC_TRAINING, "Value": training}],
                        "Value": jsonata(value),
                        "Unit": unit,
                    }
                    for metric, (value, unit) in metrics.items()
                ],
            },
            "Output": NO_OUTPUT,
        },
    )
    report.add_retry(errors=["States.ALL"], max_attempts=1)
    return report


def permit_reports() -> iam.PolicyStatement:
    """Allow to put metrics of this library's namespace."""
    return iam.PolicyStatement(
        actions=["cloudwatch:PutMetricData"],
        resources=["*"],
        conditions={"StringEquals": {"cloudwatch:namespace": contract.METRIC_NAMESPACE}},
    )
