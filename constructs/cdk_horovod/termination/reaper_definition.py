"""
The state machine of the reaper, the third layer: it checks every fleet on a schedule, independently of events.

It keeps no state; only what it observes decides. A fleet is left alone while its lease is valid and its holder's
execution runs. Otherwise the reaper takes the lease, sets the fleet's capacity to 0, polls until nothing is left, and
releases the fleet. If that takes longer than `PATIENCE`, a later execution continues.

It writes no receipts. For a run that has ended it starts the clean-up with an event like EventBridge's; the clean-up
removes the run from the queue and writes its receipt. So a failing receipt never keeps a fleet from being released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CONDITION_FAILED, NO_OUTPUT, NOW, call_aws, call_permitted, jsonata
from cdk_horovod.asl.steps import in_order
from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.termination import foreign_lease
from cdk_horovod.termination.clean_up_definition import SOURCE_OF_THE_REAPER
from cdk_horovod.workflow import lease, run_queue
from cdk_horovod.workflow.execution import DOES_NOT_EXIST, ENDED_WITHOUT_SUCCESS, EVENT, describe_the_execution
from horovod_node import contract

TIMEOUT: Final = Duration.minutes(4)
"""Timeout of an execution; Express executions have at most five minutes (Step Functions guide, "Service quotas")."""
HOLD: Final = Duration.seconds(270)
"""
Validity of the reaper's lease.

It is longer than an execution, so that none scales a fleet that a run has taken, and shorter than the default interval,
so that the next execution can continue.
"""
PATIENCE: Final = Duration.seconds(150)
"""How long an execution waits for nodes to terminate. The rest of `TIMEOUT` is for retries."""
SILENCE: Final = Duration.minutes(6)
"""A queued run that has not polled for this long may have ended; the reaper describes its execution."""

ERROR_REAPER_FAILED = "ReaperFailed"
_WORDS_KEPT: Final = 500
"""Characters that are kept of an error's cause; the cause of an execution has at most 32,768."""

METRIC_REAPED = "Reaped"
"""Fleets that the reaper reclaimed from runs that had ended."""
METRIC_CAPACITY_WITHOUT_LEASE = "CapacityWithoutLease"
"""GPUs or nodes that a fleet had, or was launching, although no run held it."""


def reaper_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    ledger: Ledger,
    queue: str,
    poll_interval: Duration,
    runs: str,
    executions: Sequence[str],
    clean_up: str,
    training: str,
) -> sfn.IChainable:
    """
    Build the graph: check every fleet, then every ended run that was found in a fleet's lease or in the queue.

    Args:
        scope: Scope of the states.
        engine: The engine's configuration.
        ledger: The training's ledger.
        queue: Name of the training's queue.
        poll_interval: Time between two polls of terminating nodes.
        runs: Prefix of the ARN of a run's execution; the run's name follows.
        executions: ARNs of the executions that may hold a fleet or wait for one, for the permission.
        clean_up: ARN of the clean-up's state machine.
        training: Value of the metrics' dimension.
    """
    fleets = sfn.Map.jsonata(
        scope,
        "Look at every fleet",
        items=sfn.ProvideItems.json_array(engine.fleets_in_order),
        # The maximum of an inline Map (Step Functions guide, "Map state"), so that a slow fleet delays no other one.
        max_concurrency=40,
        assign={
            "troubles": jsonata("[$filter($states.result, function($found) { $exists($found.trouble) }).trouble]"),
            "dead": jsonata(
                f"""[$map($filter($states.result, function($found) {{ $exists($found.run) }}), function($found) {{
  {{'name': $found.run, 'arn': '{runs}' & $found.run}}
}})]"""
            ),
        },
        outputs=NO_OUTPUT,
    )
    fleets.item_processor(
        _one_fleet(
            Construct(scope, "Fleet"),
            engine=engine,
            ledger=ledger,
            poll_interval=poll_interval,
            executions=list(executions),
            training=training,
        )
    )
    dead = sfn.Map.jsonata(
        scope,
        "Have every dead run cleaned up",
        items=sfn.ProvideItems.jsonata(jsonata("$dead")),
        max_concurrency=8,
        outputs=NO_OUTPUT,
    )
    dead.item_processor(_one_run(Construct(scope, "Run"), executions=list(executions), clean_up=clean_up))
    trouble = (
        sfn.Choice.jsonata(scope, "Any trouble?", outputs=NO_OUTPUT)
        .when(
            sfn.Condition.jsonata(jsonata("$count($troubles) > 0")),
            sfn.Fail.jsonata(scope, "Failed", error=ERROR_REAPER_FAILED, cause=jsonata("$join($troubles, ' ')")),
        )
        .otherwise(sfn.Succeed.jsonata(scope, "Looked at everything", outputs=NO_OUTPUT))
    )

    def note(what: str) -> dict[str, object]:
        return {"troubles": jsonata(f"$append($troubles, ['{what}: ' & {_WORDS}])")}

    dead.add_catch(trouble, assign=note("clean-up")).next(trouble)
    read = _read_the_line(scope, ledger=ledger, queue=queue)
    read.add_catch(dead, assign=note("line")).next(dead)
    fleets.add_catch(read, assign={"troubles": jsonata(f"[{_WORDS}]"), "dead": []}).next(read)
    return fleets


_WORDS: Final = f"""$states.errorOutput.Error & ' '
  & ($type($states.errorOutput.Cause) = 'string' ? $substring($states.errorOutput.Cause, 0, {_WORDS_KEPT}) : '')"""


def _one_fleet(
    scope: Construct,
    *,
    engine: EngineConfig,
    ledger: Ledger,
    poll_interval: Duration,
    executions: list[str],
    training: str,
) -> sfn.IChainable:
    """
    Check the fleet in the state's input. The output has `trouble` (an error) or `run` (the ended run that held it).

    Every error is caught, because a failed iteration would end the Map, and with it the checks of the other fleets.
    """
    states = engine.states
    end = sfn.Pass.jsonata(scope, "Note what was found")
    trouble = {"trouble": jsonata(f"$fleet.id & ': ' & {_WORDS}")}

    release = lease.release(scope, ledger=ledger, outputs=jsonata("$lease.run != '' ? {'run': $lease.run} : {}"))
    release.add_catch(end, errors=[CONDITION_FAILED], outputs=NO_OUTPUT).add_catch(end, outputs=trouble).next(end)
    wait = sfn.Wait.jsonata(
        scope, "Wait for the nodes to go", time=sfn.WaitTime.duration(poll_interval), outputs=NO_OUTPUT
    )
    report = _report(
        scope,
        "Report the find",
        training=training,
        metrics={METRIC_REAPED: ("1", "Count"), METRIC_CAPACITY_WITHOUT_LEASE: ("$found", "Count")},
    )
    report.add_catch(wait).next(wait)
    terminate = in_order(states.terminate(scope), then=report, caught=end, outputs=trouble)
    take = foreign_lease.take_from_the_dead(
        scope,
        ledger=ledger,
        seconds=HOLD,
        assign={
            "taken": True,
            "found": jsonata("$running"),
            "empty": False,
            "patient_until": jsonata(f"{NOW} + {PATIENCE.to_seconds()}"),
        },
    )
    # The holder is running, or a run has reserved the fleet in the meantime.
    take.add_catch(end, errors=[CONDITION_FAILED], outputs=NO_OUTPUT).add_catch(end, outputs=trouble).next(
        in_order(states.end(scope), then=terminate)
    )
    describe = describe_the_execution(
        scope,
        "Describe the holder",
        arn="$lease.execution",
        executions=executions,
        assign="ended",
        value="$states.result.Status != 'RUNNING'",
    )
    describe.add_catch(take, errors=[DOES_NOT_EXIST], assign={"ended": True})
    # An execution that cannot be described may be running, so its fleet is left alone.
    describe.add_catch(end, outputs=trouble).next(take)
    what = (
        sfn.Choice.jsonata(scope, "What is to be done?", outputs=NO_OUTPUT)
        # Two polls in a row must see 0, because Auto Scaling's answer may be older than the last request.
        .when(sfn.Condition.jsonata(jsonata("$taken and $running = 0 and $empty")), release)
        .when(sfn.Condition.jsonata(jsonata("$taken and $running = 0")), wait, assign={"empty": True})
        .when(sfn.Condition.jsonata(jsonata(f"$taken and {NOW} < $patient_until")), wait, assign={"empty": False})
        # The nodes are terminating. A later execution continues when this one's lease has expired.
        .when(sfn.Condition.jsonata(jsonata("$taken")), end, outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$not($lease.there) and $running = 0")), end, outputs=NO_OUTPUT)
        # An Express execution cannot be described, so a failed reaper holds the fleet until its lease expires.
        .when(sfn.Condition.jsonata(jsonata(f"$lease.holder in ['', '{contract.REAPER}']")), take)
        .otherwise(describe)
    )
    look = in_order(states.confirm(scope), then=what, caught=end, outputs=trouble)
    wait.next(look)
    read = foreign_lease.read(
        scope,
        ledger=ledger,
        fleet="$states.input.id",
        assign={"fleet": jsonata("$states.input"), "taken": False, "ended": False, "patient_until": 0, "empty": False},
    )
    read.add_catch(end, outputs={"trouble": jsonata(f"$states.input.id & ': ' & {_WORDS}")}).next(look)
    return read


def _one_run(scope: Construct, *, executions: list[str], clean_up: str) -> sfn.IChainable:
    """Start the clean-up for the run in the state's input, `name` and `arn`, if its execution ended without success."""
    begun = sfn.Pass.jsonata(scope, "Run is looked after", outputs=NO_OUTPUT)
    start = call_aws(
        scope,
        "Start the clean-up",
        service="sfn",
        action="startExecution",
        iam_action="states:StartExecution",
        parameters={
            "StateMachineArn": clean_up,
            # At most one clean-up for a run in an hour, however often it is found.
            "Name": jsonata(
                "$substring($event.name, 0, 40) & '-' "
                f"& $substring($hash($event.executionArn & $floor({NOW} / 3600), 'SHA-256'), 0, 32)"
            ),
            "Input": jsonata(f"$string({{'source': '{SOURCE_OF_THE_REAPER}', 'detail': $event}})"),
        },
        resources=[clean_up],
        answers=[_STARTED_ALREADY],
    )
    start.add_catch(begun, errors=[_STARTED_ALREADY]).next(begun)
    describe = describe_the_execution(
        scope, "Describe the run", arn="$states.input.arn", executions=executions, assign="event", value=EVENT
    )
    forgotten = {
        "name": jsonata("$states.input.name"),
        "executionArn": jsonata("$states.input.arn"),
        "status": "FORGOTTEN",
    }
    describe.add_catch(start, errors=[DOES_NOT_EXIST], assign={"event": forgotten})
    ended = ", ".join(f"'{status}'" for status in ENDED_WITHOUT_SUCCESS)
    return describe.next(
        sfn.Choice.jsonata(scope, "Did it end without success?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata(f"$event.status in [{ended}]")), start)
        .otherwise(begun)
    )


_STARTED_ALREADY: Final = "Sfn.ExecutionAlreadyExistsException"


def _read_the_line(scope: Construct, *, ledger: Ledger, queue: str) -> sfn.TaskStateBase:
    """Build the state that adds the queued runs to `$dead` that have not polled the queue for `SILENCE`."""
    return call_aws(
        scope,
        "Read the queue",
        service="dynamodb",
        action="getItem",
        parameters={"TableName": ledger.table.table_name, "Key": run_queue.queue_key(queue), "ConsistentRead": True},
        resources=[ledger.table.table_arn],
        assign={
            "dead": jsonata(
                f"""(
  $item := $exists($states.result.Item) ? $states.result.Item : {{}};
  $silent := $filter({run_queue.waiters("$item")}, function($waiter) {{
    $waiter.seen_at + {SILENCE.to_seconds()} < {NOW}
  }});
  [$append($dead, [$map($silent, function($waiter) {{ {{'name': $waiter.run, 'arn': $waiter.execution}} }})])]
)"""
            )
        },
    )


def _report(scope: Construct, name: str, *, training: str, metrics: Mapping[str, tuple[str, str]]) -> sfn.CustomState:
    """
    Build the state that publishes *metrics*: name to the expression of the value, and the unit.

    `call_aws` would add a permission without a condition. PutMetricData has no resource-level permissions; a condition
    on the namespace limits it (`permit_reports`).
    """
    report = call_permitted(
        scope,
        name,
        service="cloudwatch",
        action="putMetricData",
        parameters={
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
        retries=0,
    )
    report.add_retry(errors=["States.ALL"], max_attempts=1)
    return report


def permit_reports() -> iam.PolicyStatement:
    """Return the permission to publish metrics in this library's namespace."""
    return iam.PolicyStatement(
        actions=["cloudwatch:PutMetricData"],
        resources=["*"],
        conditions={"StringEquals": {"cloudwatch:namespace": contract.METRIC_NAMESPACE}},
    )
