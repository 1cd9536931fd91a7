"""
The whole run on one screen.

Variables, in the order in which they come: `$run` (execution name), `$attempt`, `$times` (ISO 8601, for the receipt),
`$outcome` (succeeded, error, cause), `$request` (with its defaults), `$ring`, `$trained` and `$saved` (the leader's
answers, see `horovod_node.contract`), `$protected` and `$running` (set by the engine's states).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.ledger import Ledger
from cdk_horovod.storage import ITrainingStorage
from cdk_horovod.workflow import closing, lease, token_tasks
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.request import defaults_expression, problems_expression
from cdk_horovod.workflow.states import CAUGHT, NO_OUTPUT, RUN_PARTITION, call_aws, failure, jsonata
from horovod_node import contract

LEDGER_DAYS = 90
"""Days that a run's items stay in the ledger: as long as Step Functions keeps its history."""


def run_definition(
    scope: Construct,
    *,
    engine: EngineConfig,
    storage: ITrainingStorage,
    readable: Sequence[s3.IBucket],
    ledger: Ledger,
    limits: RunLimits,
) -> sfn.IChainable:
    """
    Build the run's graph: check, reserve, start, train, save, terminate, confirm, receipt, release.

    From *Start nodes* on, every path leads through *Confirm that nothing runs*; a test walks them all.
    """
    bucket, fleet_id = storage.model_bucket, engine.fleet_id

    # The end, which every run reaches. A step that fails here never keeps the next one from being tried.
    end = closing.outcome(scope, bucket=bucket)
    release = lease.release(scope, ledger=ledger, fleet_id=fleet_id)
    close = closing.close_the_run(scope, ledger=ledger)
    receipt = closing.write_the_receipt(scope, bucket=bucket, fleet_id=fleet_id)
    receipt.add_catch(close).next(close)
    close.add_catch(release).next(release)
    release.add_catch(end).next(end)

    terminate = _terminate(scope, engine=engine, limits=limits, then=receipt)

    # The run itself.
    ring = token_tasks.wait_for_the_ring(scope, ledger=ledger, limits=limits)
    train = token_tasks.train(scope, ledger=ledger, limits=limits)
    save = token_tasks.save_the_model(scope, ledger=ledger, limits=limits)
    check = closing.check_the_model(scope, bucket=bucket)

    ring.add_catch(
        engine.explain,
        errors=[token_tasks.HEARTBEAT_MISSED, token_tasks.TIMED_OUT],
        assign=failure(contract.ERROR_RING_NOT_FORMED, "'The nodes did not all come in time.'"),
    )
    engine.explain.add_catch(terminate).next(terminate)
    for task in (train, save):
        task.add_catch(
            terminate,
            errors=[token_tasks.HEARTBEAT_MISSED],
            assign=failure(
                contract.ERROR_LEADER_LOST,
                f"'No heartbeat for {limits.heartbeat.to_seconds()} s from the leader ' & $ring.leader.node "
                "& '. Its instance or its agent died: see the log of this node.'",
            ),
        )
    train.add_catch(
        terminate,
        errors=[token_tasks.TIMED_OUT],
        assign=failure(
            contract.ERROR_MAX_RUNTIME,
            f"'The training took longer than its {contract.MAX_RUNTIME_SECONDS}, ' "
            f"& $request.{contract.MAX_RUNTIME_SECONDS} & ' s.'",
        ),
    )
    for task in (*engine.start, ring, train, save, check):
        task.add_catch(terminate, assign=CAUGHT)
    # Keeping workers through the upload costs money; losing the model for it would cost more.
    for task in (engine.protect, engine.release):
        task.add_catch(save)

    started = sfn.Chain.start(engine.start[0])
    for state in (*engine.start[1:], ring, train, engine.protect, engine.release, save, check, terminate):
        started = started.next(state)

    reserve = lease.reserve(scope, ledger=ledger, fleet_id=fleet_id, limits=limits)
    queue = lease.wait_for_the_fleet(scope, limits=limits, then=reserve, refused=receipt)
    reserve.add_catch(queue, errors=[lease.FLEET_IS_TAKEN])
    reserve.add_catch(receipt, assign=CAUGHT)
    reserve.next(started)

    record = _record_the_run(scope, engine=engine, storage=storage, ledger=ledger, limits=limits)
    record.add_catch(receipt, assign=CAUGHT)
    data = _check_the_data(scope, readable=readable, refused=receipt, then=record)
    record.next(reserve)
    return _check_the_request(scope, engine=engine, limits=limits, refused=receipt, then=data)


def _check_the_request(
    scope: Construct, *, engine: EngineConfig, limits: RunLimits, refused: sfn.IChainable, then: sfn.IChainable
) -> sfn.IChainable:
    longest = int(limits.max_runtime.to_seconds())
    check = sfn.Pass.jsonata(
        scope,
        "Check the request",
        assign={
            "run": jsonata("$states.context.Execution.Name"),
            "attempt": 1,
            "times": {"started_at": jsonata("$states.context.Execution.StartTime")},
            "remove_at": jsonata(f"$string($floor($millis() / 1000) + {LEDGER_DAYS * 86_400})"),
            "request": jsonata("$states.input"),
            "problems": jsonata(
                problems_expression(gpu_step=engine.gpu_step, max_gpus=engine.max_gpus, max_runtime_seconds=longest)
            ),
            # As an expression: asl-validator 4.0.0 takes no plain empty string.
            "outcome": {"succeeded": False, "error": jsonata("''"), "cause": jsonata("''")},
            "protected": False,
            "ring": {"gpus": 0},
            "trained": {"ranks": 0},
            "saved": {"bytes": 0},
        },
    )
    refuse = sfn.Pass.jsonata(
        scope, "Refuse the request", assign=failure(contract.ERROR_INVALID_REQUEST, "$problems"), outputs=NO_OUTPUT
    )
    complete = sfn.Pass.jsonata(
        scope,
        "Complete the request",
        assign={"request": jsonata(defaults_expression(max_runtime_seconds=longest))},
        outputs=NO_OUTPUT,
    )
    refuse.next(refused)
    complete.next(then)
    return check.next(
        sfn.Choice.jsonata(scope, "Request valid?")
        .when(sfn.Condition.jsonata(jsonata("$problems = ''")), complete)
        .otherwise(refuse)
    )


def _check_the_data(
    scope: Construct, *, readable: Sequence[s3.IBucket], refused: sfn.IChainable, then: sfn.IChainable
) -> sfn.IChainable:
    """Look at one key of every channel: an empty prefix is found before anything is paid for."""
    address = "$substringAfter($states.input.uri, 's3://')"
    look = call_aws(
        scope,
        "Look at the channel",
        service="s3",
        action="listObjectsV2",
        iam_action="s3:ListBucket",
        parameters={
            "Bucket": jsonata(f"$substringBefore({address}, '/')"),
            "Prefix": jsonata(f"$substringAfter({address}, '/')"),
            "MaxKeys": 1,
        },
        resources=[bucket.bucket_arn for bucket in readable],
        outputs={
            "name": jsonata("$states.input.name"),
            "uri": jsonata("$states.input.uri"),
            "keys": jsonata("$states.result.KeyCount"),
        },
    )
    empty = """$map(
      $filter($states.result, function($channel) { $channel.keys = 0 }),
      function($channel) { "'data." & $channel.name & "' is empty: " & $channel.uri & " holds no object" }
    )"""
    check = sfn.Map.jsonata(
        scope,
        "Check the data",
        items=sfn.ProvideItems.jsonata(
            jsonata("[$each($request.data, function($uri, $name) { {'name': $name, 'uri': $uri} })]")
        ),
        max_concurrency=8,
        assign={"problems": jsonata(f"$join([{empty}], '; ')")},
        outputs=NO_OUTPUT,
    )
    check.item_processor(look)
    check.add_catch(refused, assign=CAUGHT)
    refuse = sfn.Pass.jsonata(
        scope, "Refuse the data", assign=failure(contract.ERROR_DATA_NOT_FOUND, "$problems"), outputs=NO_OUTPUT
    )
    refuse.next(refused)
    return check.next(
        sfn.Choice.jsonata(scope, "Data there?")
        .when(sfn.Condition.jsonata(jsonata("$problems = ''")), then)
        .otherwise(refuse)
    )


def _record_the_run(
    scope: Construct, *, engine: EngineConfig, storage: ITrainingStorage, ledger: Ledger, limits: RunLimits
) -> sfn.TaskStateBase:
    settings = contract.RunSettings(
        model_bucket=storage.model_bucket.bucket_name,
        heartbeat_seconds=int(limits.heartbeat.to_seconds()),
        first_step_seconds=int(limits.first_step_timeout.to_seconds()),
        stall_seconds=int(limits.stall_timeout.to_seconds()),
        leader_market=engine.leader_market,
    )
    return call_aws(
        scope,
        "Record the run",
        service="dynamodb",
        action="putItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Item": {
                contract.PARTITION_KEY: RUN_PARTITION,
                contract.SORT_KEY: {"S": contract.RUN_SORT_KEY},
                contract.VERSION: {"N": str(contract.CONTRACT_VERSION)},
                contract.FLEET: {"S": engine.fleet_id},
                contract.EXECUTION: {"S": jsonata("$states.context.Execution.Id")},
                contract.STAGE: {"S": contract.STAGE_QUEUED},
                contract.CREATED_AT: {"N": jsonata("$string($floor($millis() / 1000))")},
                contract.REQUEST_JSON: {"S": jsonata("$string($request)")},
                contract.SETTINGS_JSON: {"S": json.dumps(asdict(settings))},
                # Nodes give their own items the same end.
                contract.TTL_ATTRIBUTE: {"N": jsonata("$remove_at")},
            },
        },
        resources=[ledger.table.table_arn],
    )


def _terminate(scope: Construct, *, engine: EngineConfig, limits: RunLimits, then: sfn.IChainable) -> sfn.IChainable:
    """Terminate until a look at the fleet confirms that nothing runs; no error and no number of tries ends the loop."""
    wait = sfn.Wait.jsonata(
        scope, "Wait for the nodes to go", time=sfn.WaitTime.duration(limits.poll_interval), outputs=NO_OUTPUT
    )
    start = sfn.Choice.jsonata(scope, "Leader protected?", outputs=NO_OUTPUT)
    start.when(sfn.Condition.jsonata(jsonata("$protected")), engine.unprotect).otherwise(engine.terminate)
    engine.unprotect.add_catch(engine.terminate).next(engine.terminate)
    engine.terminate.add_catch(wait).next(engine.confirm)
    engine.confirm.add_catch(wait).next(
        sfn.Choice.jsonata(scope, "Anything running?", outputs=NO_OUTPUT)
        .when(sfn.Condition.jsonata(jsonata("$running > 0")), wait)
        .otherwise(then)
    )
    wait.next(start)
    return start
