"""The three tasks of the leader, each with a task token in the ledger: form the ring, train, save the model."""

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
from cdk_horovod.workflow.run_timeouts import LOOKS, RunTimeouts
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
Errors after which the task may not have been written, so it is retried, with another token.

The transaction has no condition, so it is cancelled only by a conflict, throttling or a fault. Errors of a leader's
answer have no dot in their names, so they are not among these.
"""
RETRIES = 5
"""Retries after 1, 3, 9, 27 and 60 seconds, with full jitter."""


FIRST_HEARTBEAT = (
    f"($exists($fleet.look) and $search.looks < {LOOKS} ? $min([$fleet.look, $search.attempt.first]) "
    ": $search.attempt.first)"
)
"""
Expression of the seconds after which a run without a heartbeat looks at its nodes.

Until the first node is up nobody can send a heartbeat, so a look is due when the time for that node is over. In a fleet
whose nodes may have been refused for good it is due at the fleet's own interval, but not more often than an execution's
history has room for.
"""


def wait_for_the_ring(scope: Construct, *, ledger: Ledger) -> sfn.TaskStateBase:
    """Build the state that waits for the ring, and records the capacity attempt and the prices in the run's item."""
    # Step Functions requires a timeout longer than the heartbeat.
    left = f"$max([2, $search.attempt.seconds - ({NOW} - $search.since)])"
    return _ask_the_leader(
        scope,
        "Wait for the ring",
        ledger=ledger,
        task=contract.TASK_RING,
        stage=contract.STAGE_JOINING,
        heartbeat=sfn.Timeout.jsonata(jsonata(f"$min([{FIRST_HEARTBEAT}, {left} - 1])")),
        timeout=sfn.Timeout.jsonata(jsonata(left)),
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
    Build the state that finds out, after missed heartbeats of the ring, whether there was a leader.

    If a leader is lost while nodes join, the others would wait at full price, so the run starts again at once.
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
        assign=joining_leader_lost(timeouts, leader=leader, heartbeat=FIRST_HEARTBEAT),
    )


def train(scope: Construct, *, ledger: Ledger, timeouts: RunTimeouts) -> sfn.TaskStateBase:
    """
    Build the state that waits for the training.

    Its timeout is the earlier of the cost ceiling and of what lost attempts have left of the request's runtime. The
    ring's price is written in the same transaction as the token, so that the leader does not read that of an earlier
    ring.
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
        # `Timeout.at` would render TimeoutSecondsPath, which JSONata states do not have. The timeout must be longer
        # than the heartbeat, so a request with less time gets the heartbeat plus a second.
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
    """Build the state that waits for the upload of the model."""
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
    Build the state that writes the token and updates the run's item in one transaction, and waits for the answer.

    The leader answers each token once, and handles a repeated task with a new token (`horovod_node.attempt.task`).
    """
    # Includes the times so far, because the clean-up of a stopped run cannot get them elsewhere.
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
        # A transaction needs the permissions of its writes; it has no IAM action itself.
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
"""Defines `$known`, the attributes that are present and neither 0 nor ''."""


def _with_price(update: str) -> str:
    """Extend *update* to set the attributes in `$price`, and to remove those that only an earlier attempt had."""
    return jsonata(
        f"""(
  {_PRICED}
  $absent := $filter({json.dumps(ring_price.ATTRIBUTES)}, function($name) {{ $not($name in $known) }});
  '{update}' & $join([$map($known, function($name) {{ ', #' & $name & ' = :' & $name }})])
    & ' REMOVE ' & $join([$map($absent, function($name) {{ '#' & $name }})], ', ')
)"""
    )


def _values_with_price(told: Mapping[str, str]) -> str:
    """Return the values of that expression; those of *told* are texts."""

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
