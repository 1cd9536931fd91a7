"""What a request passes before it may wait for a fleet: the check, a look at the data, the run's item in the ledger."""

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
from cdk_horovod.workflow.emptying import NOT_BEGUN
from cdk_horovod.workflow.limits import RunLimits
from cdk_horovod.workflow.pricing import UNKNOWN
from cdk_horovod.workflow.receipt import UNREAD_BY_THE_RUN
from cdk_horovod.workflow.request import defaults_expression, problems_expression
from cdk_horovod.workflow.search import NO_SEARCH, fleets_with_plans
from cdk_horovod.workflow.states import CAUGHT, NO_OUTPUT, RUN_KEY, call_aws, failure, jsonata, run_id
from horovod_node import contract

LEDGER_DAYS = 90
"""Days that a run's items stay in the ledger: as long as Step Functions keeps its history."""


def check_the_request(
    scope: Construct,
    *,
    engine: EngineConfig,
    limits: RunLimits,
    max_cost_usd: float | None,
    max_restarts: int,
    queue: str,
    refused: sfn.IChainable,
    then: sfn.IChainable,
) -> sfn.IChainable:
    longest = int(limits.max_runtime.to_seconds())
    check = sfn.Pass.jsonata(
        scope,
        "Check the request",
        assign={
            "run": jsonata("$states.context.Execution.Name"),
            "run_id": jsonata(
                run_id(queue, name="$states.context.Execution.Name", started="$states.context.Execution.StartTime")
            ),
            "attempt": 0,
            "times": {"started_at": jsonata("$states.context.Execution.StartTime")},
            "remove_at": jsonata(f"$string($floor($millis() / 1000) + {LEDGER_DAYS * 86_400})"),
            "request": jsonata("$states.input"),
            "problems": jsonata(
                problems_expression(
                    fleets=[fleet.size for fleet in engine.fleets],
                    max_runtime_seconds=longest,
                    max_cost_usd=max_cost_usd,
                )
            ),
            "fleets": fleets_with_plans(engine, limits=limits),
            # As an expression: asl-validator 4.0.0 takes no plain empty string.
            "outcome": {"succeeded": False, "error": jsonata("''"), "cause": jsonata("''")},
            "fleet": {},
            "fresh": True,
            "held": 0,
            "emptying": NOT_BEGUN,
            "ring": {"gpus": 0},
            "price": UNKNOWN,
            "prices": [],
            "search": NO_SEARCH,
            "lost": [],
            "spent": 0,
            "trained": {"ranks": 0},
            "saved": {"bytes": 0},
            **UNREAD_BY_THE_RUN,
        },
    )
    # A request without problems gets its defaults; a choice sets them where none of its rules holds.
    valid = sfn.Choice.jsonata(
        scope,
        "Request valid?",
        assign={
            "request": jsonata(
                defaults_expression(max_runtime_seconds=longest, max_restarts=max_restarts, max_cost_usd=max_cost_usd)
            ),
            "fleets": jsonata(
                "[$filter($fleets, function($fleet) { $states.input.gpus <= $fleet.max_gpus "
                "and $states.input.gpus % $fleet.gpu_step = 0 })]"
            ),
        },
        outputs=NO_OUTPUT,
    )
    return check.next(
        valid.when(
            sfn.Condition.jsonata(jsonata("$problems != ''")),
            refused,
            assign=failure(contract.ERROR_INVALID_REQUEST, "$problems"),
        ).otherwise(then)
    )


def check_the_data(
    scope: Construct, *, readable: Sequence[s3.IBucket], refused: sfn.IChainable, then: sfn.IChainable
) -> sfn.IChainable:
    """
    Look for one object of every channel: an empty one is found before anything is paid for.

    A channel is a folder or one object, as nodes take it: `s3://bucket/dig` is neither when only `digits/` is there.
    """
    there = sfn.Pass.jsonata(scope, "Channel is there", outputs=jsonata("$states.input"))
    look_for_object = _look(
        scope,
        "Look for one object",
        prefix="$key",
        # Of all keys that begin with a prefix, the one that is the prefix itself comes first.
        found="$states.input.nothing_below and $substring($key, -1) != '/' "
        "and $exists($states.result.Contents) and $states.result.Contents[0].Key = $key",
        most=1,
        readable=readable,
    )
    look = _look(
        scope,
        "Look into the folder",
        prefix="$folder",
        # Consoles make a "folder" out of an empty object whose key ends with a slash; nodes leave it out.
        found="$count($filter($states.result.Contents, function($object) { $substring($object.Key, -1) != '/' })) > 0",
        most=10,
        readable=readable,
    )
    look.next(
        sfn.Choice.jsonata(scope, "Channel there?")
        .when(sfn.Condition.jsonata(jsonata("$states.input.found")), there)
        .otherwise(look_for_object)
    )
    empty = """$map(
      $filter($states.result, function($channel) { $not($channel.found) }),
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
    return check.next(
        sfn.Choice.jsonata(scope, "Data there?")
        .when(
            sfn.Condition.jsonata(jsonata("$problems != ''")),
            refused,
            assign=failure(contract.ERROR_DATA_NOT_FOUND, "$problems"),
        )
        .otherwise(then)
    )


def _look(
    scope: Construct, name: str, *, prefix: str, found: str, most: int, readable: Sequence[s3.IBucket]
) -> sfn.TaskStateBase:
    """Build a look at the first keys under *prefix*, an expression of `$key` and `$folder`."""
    names = """$address := $substringAfter($states.input.uri, 's3://');
      $key := $substringAfter($address, '/');
      $folder := $key & ($substring($key, -1) = '/' ? '' : '/');"""
    return call_aws(
        scope,
        name,
        service="s3",
        action="listObjectsV2",
        iam_action="s3:ListBucket",
        parameters={
            "Bucket": jsonata(f"({names} $substringBefore($address, '/'))"),
            "Prefix": jsonata(f"({names} {prefix})"),
            "MaxKeys": most,
        },
        resources=[bucket.bucket_arn for bucket in readable],
        outputs={
            "name": jsonata("$states.input.name"),
            "uri": jsonata("$states.input.uri"),
            "found": jsonata(f"({names} {found})"),
            "nothing_below": jsonata("$states.result.KeyCount = 0"),
        },
    )


def record_the_run(
    scope: Construct, *, storage: ITrainingStorage, ledger: Ledger, limits: RunLimits, keep_checkpoints: int
) -> sfn.TaskStateBase:
    settings = contract.RunSettings(
        model_bucket=storage.model_bucket.bucket_name,
        heartbeat_seconds=int(limits.heartbeat.to_seconds()),
        first_step_seconds=int(limits.first_step_timeout.to_seconds()),
        stall_seconds=int(limits.stall_timeout.to_seconds()),
        lease_seconds=int(limits.lease_timeout.to_seconds()),
        elastic_seconds=int(limits.elastic_timeout.to_seconds()),
        keep_checkpoints=keep_checkpoints,
    )
    return call_aws(
        scope,
        "Record the run",
        service="dynamodb",
        action="putItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Item": {
                **RUN_KEY,
                contract.VERSION: {"N": str(contract.CONTRACT_VERSION)},
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
