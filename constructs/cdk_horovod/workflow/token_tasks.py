"""The three things that the state machine asks of the leader, each a task token in the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import (
    NODES_PARTITION,
    NOW,
    RUN_KEY,
    SECRETS_PARTITION,
    attempt_digits,
    call_aws,
    jsonata,
    now_as,
)
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.workflow import ring_price
from cdk_horovod.workflow.capacity_search import CAPACITY_JSON, FORMED
from cdk_horovod.workflow.outcome import joining_leader_lost
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract

HEARTBEAT_MISSED = "States.HeartbeatTimeout"
TIMED_OUT = "States.Timeout"

TRANSIENT = tuple(
    f"DynamoDb.{name}Exception"
    for name in (
        "InternalServerError",
        "ProvisionedThroughputExceeded",
        "RequestLimitExceeded",
        "Throttling",
        "TransactionCanceled",
        "TransactionConflict",
        "TransactionInProgress",
        # The SDK's own: an answer that no model names, such as a 503, and no answer at all.
        "DynamoDb",
        "SdkClient",
    )
)
"""
Errors with which the question may not have been written, and after which it is asked again, with another token.

The transaction has no condition, so it is cancelled only by a conflict, a throttle or a fault. What a leader answers is
none of these: its errors are named without a dot.
"""
RETRIES = 5
"""At 1, 3, 9, 27 and 60 seconds, each with full jitter."""


def wait_for_the_ring(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """
    Ask for the ring, and tell people of the attempt to get capacity for it, and of the prices.

    Before the first node is up nobody can send a heartbeat: its limit is the launch timeout, or the attempt's own.
    """
    return _ask_the_leader(
        scope,
        "Wait for the ring",
        ledger=ledger,
        task=contract.TASK_RING,
        stage=contract.STAGE_JOINING,
        heartbeat=sfn.Timeout.jsonata(jsonata("$search.attempt.heartbeat")),
        timeout=sfn.Timeout.jsonata(jsonata("$search.attempt.seconds")),
        assign={
            "ring": jsonata("$states.result"),
            "times": now_as("ring_at"),
            "search": FORMED,
            "price": ring_price.PRICE,
        },
        tell={
            contract.CAPACITY_JSON: CAPACITY_JSON,
            contract.PRICES_JSON: jsonata("$string([$prices])"),
            contract.RESTARTS_JSON: jsonata("$string([$lost_attempts])"),
        },
    )


def look_for_the_leader(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """
    Build the state that tells a leader that fell silent from one that never was, when the ring's heartbeats are missed.

    A leader that is lost while nodes join leaves the others waiting, at full price: the run starts again at once.
    """
    leader = f"$states.result.Item.{contract.NODE}.S"
    return call_aws(
        scope,
        "Look for the leader",
        service="dynamodb",
        action="getItem",
        parameters={
            "TableName": ledger.table.table_name,
            "Key": {
                contract.PARTITION_KEY: NODES_PARTITION,
                contract.SORT_KEY: {"S": jsonata(f"'{contract.LEADER_PREFIX}' & {attempt_digits('$attempt')}")},
            },
            "ConsistentRead": True,
        },
        resources=[ledger.table.table_arn],
        assign=joining_leader_lost(timeouts, leader=leader, heartbeat="$search.attempt.heartbeat"),
    )


def train(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """
    Ask for the training; its timeout is what comes first of the request's ceiling and of what attempts that were lost
    have left of its limit of time.

    What the ring costs is written together with the question, so that a leader that was asked reads it, and not what
    the ring before it cost.
    """
    longest = f"($request.{contract.MAX_RUNTIME_SECONDS} - $spent)"
    ceiling = f"$price.{contract.CEILING_AT}"
    return _ask_the_leader(
        scope,
        "Train",
        ledger=ledger,
        task=contract.TASK_TRAIN,
        stage=contract.STAGE_TRAINING,
        heartbeat=sfn.Timeout.duration(timeouts.heartbeat),
        # `Timeout.at` would render TimeoutSecondsPath, which JSONata states do not have. Step Functions wants the
        # timeout longer than the heartbeat, so a shorter request gets the heartbeat's time.
        timeout=sfn.Timeout.jsonata(
            jsonata(
                f"$max([$min([{longest}, {ceiling} > 0 ? {ceiling} - {NOW} : {longest}]), "
                f"{timeouts.heartbeat.to_seconds() + 1}])"
            )
        ),
        assign={"trained": jsonata("$states.result"), "times": now_as("trained_at")},
        priced=True,
    )


def save_the_model(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """Ask for the upload of the model."""
    return _ask_the_leader(
        scope,
        "Save the model",
        ledger=ledger,
        task=contract.TASK_SAVE,
        stage=contract.STAGE_SAVING,
        heartbeat=sfn.Timeout.duration(timeouts.heartbeat),
        timeout=sfn.Timeout.duration(timeouts.save_timeout),
        assign={"saved": jsonata("$states.result"), "times": now_as("saved_at")},
    )


def _ask_the_leader(
    scope: Construct,
    name: str,
    *,
    ledger: Ledger,
    task: contract.Task,
    stage: str,
    heartbeat: sfn.Timeout,
    timeout: sfn.Timeout,
    assign: Mapping[str, Any],
    tell: Mapping[str, str] | None = None,
    priced: bool = False,
) -> sfn.TaskStateBase:
    """
    Put the token, and the run's stage and what else it has to tell, into the ledger in one write; wait.

    The leader answers each token once. It understands being asked again: see `horovod_node.attempt.task`.
    """
    # With the milestones so far: a run that is stopped has nobody else to tell them.
    told = {contract.STAGE: stage, contract.TIMES_JSON: jsonata("$string($times)"), **(tell or {})}
    table = ledger.table.table_name
    token = {
        contract.PARTITION_KEY: SECRETS_PARTITION,
        contract.SORT_KEY: {"S": jsonata(f"'{contract.TASK_PREFIX}' & {attempt_digits('$attempt')} & '#{task}'")},
        contract.TOKEN: {"S": jsonata("$states.context.Task.Token")},
        contract.TTL_ATTRIBUTE: {"N": jsonata("$remove_at")},
    }
    update = "SET " + ", ".join(f"#{name} = :{name}" for name in told)
    values = {f":{name}": {"S": value} for name, value in told.items()}
    state = call_aws(
        scope,
        name,
        service="dynamodb",
        action="transactWriteItems",
        # The permission is that of the writes inside; DynamoDB has no action of the transaction's own.
        iam_action="dynamodb:PutItem",
        parameters={
            "TransactItems": [
                {"Put": {"TableName": table, "Item": token}},
                {
                    "Update": {
                        "TableName": table,
                        "Key": RUN_KEY,
                        "UpdateExpression": _with_price(update) if priced else update,
                        "ExpressionAttributeNames": {
                            f"#{name}": name for name in (*told, *(ring_price.ATTRIBUTES if priced else ()))
                        },
                        "ExpressionAttributeValues": _values_with_price(told) if priced else values,
                    }
                },
            ]
        },
        resources=[ledger.table.table_arn],
        assign=assign,
        task_timeout=timeout,
        heartbeat=heartbeat,
    )
    state.add_retry(
        errors=list(TRANSIENT),
        max_attempts=RETRIES,
        interval=Duration.seconds(1),
        backoff_rate=3,
        max_delay=Duration.seconds(60),
        jitter_strategy=sfn.JitterType.FULL,
    )
    return state


_PRICED = f"""$known := $filter({json.dumps(ring_price.ATTRIBUTES)}, function($name) {{
    $boolean($lookup($price, $name))
  }});"""
"""JSONata's truth: neither missing, nor 0, nor ''."""


def _with_price(update: str) -> str:
    """Write the update expression that also sets what `$price` holds, and removes what an attempt before had."""
    return jsonata(
        f"""(
  {_PRICED}
  $absent := $filter({json.dumps(ring_price.ATTRIBUTES)}, function($name) {{ $not($name in $known) }});
  '{update}' & $join([$map($known, function($name) {{ ', #' & $name & ' = :' & $name }})])
    & ' REMOVE ' & $join([$map($absent, function($name) {{ '#' & $name }})], ', ')
)"""
    )


def _values_with_price(told: Mapping[str, str]) -> str:
    """Write the values of that expression; *told* are texts, as DynamoDB's `S`."""

    def as_expression(value: str) -> str:
        return value.removeprefix("{% ").removesuffix(" %}") if value.startswith("{%") else f"'{value}'"

    texts = ", ".join(f"':{name}': {{'S': {as_expression(value)}}}" for name, value in told.items())
    return jsonata(
        f"""(
  {_PRICED}
  $merge([{{{texts}}}, $map($known, function($name) {{ (
    $value := $lookup($price, $name);
    {{':' & $name: $name = '{contract.NOTICE}' ? {{'S': $value}} : {{'N': $string($value)}}}}
  ) }})])
)"""
    )
