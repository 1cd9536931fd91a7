"""Admission of a request, before it is queued: check of request and data, and the run's item in the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import CAUGHT, NO_OUTPUT, RUN_KEY, call_aws, call_permitted, failure, jsonata, run_id
from cdk_horovod.engines.engine import EngineConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.resources.storage import ITrainingStorage
from cdk_horovod.workflow.capacity_search import NO_SEARCH, fleets_with_plans
from cdk_horovod.workflow.emptying import NOT_BEGUN
from cdk_horovod.workflow.next_fleet import NONE_LEFT
from cdk_horovod.workflow.receipt import UNREAD_BY_THE_RUN
from cdk_horovod.workflow.request_rules import BYTES, defaults_expression, problems_expression
from cdk_horovod.workflow.ring_price import UNKNOWN
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

LEDGER_DAYS = 90
"""Days that a run's items stay in the ledger, as long as Step Functions keeps the execution."""


def check_the_request(
    scope: Construct,
    *,
    engine: EngineConfig,
    timeouts: RunTimeouts,
    max_cost_usd: float | None,
    max_restarts: int,
    queue: str,
    refused: sfn.IChainable,
    then: sfn.IChainable,
) -> sfn.IChainable:
    longest = int(timeouts.max_runtime.to_seconds())
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
            "fleets": fleets_with_plans(engine, timeouts=timeouts),
            # As an expression: asl-validator 4.0.0 takes no plain empty string.
            "outcome": {"succeeded": False, "error": jsonata("''"), "cause": jsonata("''")},
            "fleet": {},
            "left": NONE_LEFT,
            "must_be_empty": True,
            "held": 0,
            "emptying": NOT_BEGUN,
            "ring": {"gpus": 0},
            "price": UNKNOWN,
            "prices": [],
            "search": NO_SEARCH,
            "lost_attempts": [],
            "spent": 0,
            "trained": {"ranks": 0},
            "saved": {"bytes": 0},
            **UNREAD_BY_THE_RUN,
        },
    )
    least = f"$states.input.{contract.MIN_GPUS}"
    # The Choice's own `Assign` applies if no rule matches: a valid request gets its defaults.
    valid = sfn.Choice.jsonata(
        scope,
        "Request valid?",
        assign={
            "request": jsonata(
                defaults_expression(max_runtime_seconds=longest, max_restarts=max_restarts, max_cost_usd=max_cost_usd)
            ),
            "fleets": jsonata(
                f"""[$map(
  $filter($fleets, function($fleet) {{
    $states.input.gpus <= $fleet.max_gpus and $states.input.gpus % $fleet.gpu_step = 0
    and ($fleet.elastic or $not($exists({least})) or {least} >= $states.input.gpus)
  }}),
  function($fleet) {{ $merge([$fleet, {{'plan': [$filter($fleet.plan, function($try) {{
    $not($exists($try.node_gpus)) or $states.input.gpus % $try.node_gpus = 0
  }})]}}]) }}
)]"""
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
    Build the states that look for an object in every channel, so that an empty channel costs nothing.

    As on the nodes, a channel is a folder, a whole bucket or one object: `s3://bucket/dig` is none of these if only
    `digits/` exists. A folder is listed page by page until a file is found. After `_MOST_PAGES` pages with only folder
    objects the check gives up and leaves it to the nodes.
    """
    there = sfn.Pass.jsonata(scope, "Channel is there", outputs=jsonata("$states.input"))
    look = call_aws(
        scope,
        "Look for one object",
        service="s3",
        action="listObjectsV2",
        iam_action="s3:ListBucket",
        parameters={
            "Bucket": jsonata("$states.input.bucket"),
            "Prefix": jsonata("$states.input.prefix"),
            "StartAfter": jsonata("$states.input.after"),
            "MaxKeys": _PAGE,
        },
        resources=[bucket.bucket_arn for bucket in readable],
        outputs=jsonata(_LOOKED),
    )
    look.next(
        sfn.Choice.jsonata(scope, "Channel there?")
        .when(sfn.Condition.jsonata(jsonata("$states.input.look_on")), look)
        .otherwise(there)
    )
    empty = """$map(
      $filter($states.result, function($channel) { $not($channel.found) }),
      function($channel) { "'data." & $channel.name & "' is empty: " & $channel.uri & " holds no object" }
    )"""
    check = sfn.Map.jsonata(
        scope,
        "Check the data",
        items=sfn.ProvideItems.jsonata(jsonata(f"[$each($request.data, {_CHANNEL})]")),
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


_PAGE = 100
"""Keys on one page. A key has up to 1,024 bytes, and the result with all properties must fit into 256 KiB."""
_MOST_PAGES = 30
"""Most pages for one channel: each adds 7 events to the execution's history."""
_CHANNEL = """function($uri, $name) {(
  $address := $substringAfter($uri, 's3://') & '/';
  $bucket := $substringBefore($address, '/');
  $key := $substring($uri, $length('s3://' & $bucket & '/'));
  {
    'name': $name,
    'uri': $uri,
    'bucket': $bucket,
    'key': $key,
    'prefix': $key = '' or $substring($key, -1) = '/' ? $key : $key & '/',
    'after': ' ',
    'page': 1
  }
)}"""
"""
Function that makes a channel from its URI, with where to look first: in its folder, or the whole bucket without a key.

The same state requests the first and all later pages, so the first page needs a `StartAfter`, too: a space, because no
key in a request sorts before it.
"""
_LOOKED = f"""(
  $channel := $states.input;
  $contents := $exists($states.result.Contents) ? $states.result.Contents : [];
  $in_folder := $channel.prefix = '' or $substring($channel.prefix, -1) = '/';
  $found := $count($filter($contents, function($object) {{
    $in_folder ? $substring($object.Key, -1) != '/' : $object.Key = $channel.key
  }})) > 0;
  $more := $in_folder and $states.result.IsTruncated = true and $count($contents) > 0;
  $object_next := $in_folder and $not($more) and $channel.prefix != $channel.key;
  $given_up := $more and $channel.page >= {_MOST_PAGES};
  $merge([$channel, {{
    'found': $found or $given_up,
    'look_on': $not($found or $given_up) and ($more or $object_next),
    'page': $channel.page + 1
  }}, $more ? {{'after': $contents[-1].Key}} : {{'prefix': $channel.key, 'after': ' '}}])
)"""
"""
Expression of the channel after a page: whether it was found, and where to look next.

An empty object whose key ends with a slash, a "folder" of the console, does not count; nodes skip it, too. If the
folder has no file, the channel may be one object: its key sorts first among the keys that begin with it.
"""


def read_the_request(scope: Construct, *, refused: sfn.IChainable) -> sfn.CustomState:
    """
    Build the state that sets `$request_json`: the request as it was submitted, with the defaults of absent fields.

    The user's numbers must reach the script unchanged, but expressions convert them to doubles, of which `$string`
    writes 15 digits. DescribeExecution returns the input as text (Step Functions API Reference, "DescribeExecution":
    "The string that contains the JSON input data of the execution"), and expressions do not change texts.

    The permission is not added by the state, but by `permit_own_executions`.
    """
    state = call_permitted(
        scope,
        "Read the request",
        service="sfn",
        action="describeExecution",
        parameters={"ExecutionArn": jsonata("$states.context.Execution.Id")},
        assign={"request_json": jsonata(_REQUEST_JSON)},
        answers=[_TOO_LARGE],
    )
    state.add_catch(
        refused,
        errors=[_TOO_LARGE],
        assign=failure(contract.ERROR_INVALID_REQUEST, json.dumps(contract.REQUEST_TOO_LARGE)),
    )
    state.add_catch(refused, assign=CAUGHT)
    return state


_TOO_LARGE = "States.QueryEvaluationError"
"""Error of a state whose expression calls `$error`."""
_REQUEST_JSON = f"""(
  $text := $states.result.Input;
  $given := $keys($states.context.Execution.Input);
  $absent := $sift($request, function($value, $name) {{ $not($name in $given) }});
  $defaults := $exists($absent) ? $string($absent) : '';
  {BYTES} > {contract.REQUEST_LIMIT} ? $error('too large')
    : ($defaults = '' ? '{{' : $substring($defaults, 0, $length($defaults) - 1) & ',') & $substringAfter($text, '{{')
)"""
"""Expression of the request's text with the defaults, which come first, inserted into its JSON object."""


def record_the_run(
    scope: Construct, *, storage: ITrainingStorage, ledger: Ledger, timeouts: RunTimeouts, keep_checkpoints: int
) -> sfn.TaskStateBase:
    settings = contract.RunSettings(
        model_bucket=storage.model_bucket.bucket_name,
        heartbeat_seconds=int(timeouts.heartbeat.to_seconds()),
        first_step_seconds=int(timeouts.first_step_timeout.to_seconds()),
        stall_seconds=int(timeouts.stall_timeout.to_seconds()),
        lease_seconds=int(timeouts.lease_timeout.to_seconds()),
        elastic_seconds=int(timeouts.elastic_timeout.to_seconds()),
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
                contract.REQUEST_JSON: {"S": jsonata("$request_json")},
                contract.SETTINGS_JSON: {"S": json.dumps(asdict(settings))},
                # Nodes set the same time to live on their items.
                contract.TTL_ATTRIBUTE: {"N": jsonata("$remove_at")},
            },
        },
        resources=[ledger.table.table_arn],
    )
