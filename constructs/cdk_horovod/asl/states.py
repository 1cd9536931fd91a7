"""Building blocks of states: JSONata expressions, AWS calls, and the `Assign` of a caught error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_cdk import Aws, Duration
from aws_cdk import aws_stepfunctions as sfn
from aws_cdk import aws_stepfunctions_tasks as tasks
from constructs import Construct

from horovod_node import contract

NO_OUTPUT: dict[str, str] = {}
"""Output of every state here: later states read variables, which survive Catch and loops."""


def jsonata(expression: str) -> str:
    """
    Mark *expression* as JSONata for Step Functions, on one line: asl-validator 4.0.0 takes no other.

    Step Functions gives an expression no input, so no path may begin with `$` or a bare field name (Developer Guide,
    "Transforming data with JSONata"). The expressions of this library use neither anywhere: functions over lists have a
    named argument, and a test checks every expression's syntax tree.
    """
    return f"{{% {' '.join(line.strip() for line in expression.splitlines())} %}}"


_NAMES_BEGIN_WITH = "cdk_horovod:state_names_begin_with"
"""Context key of a scope whose states have names that begin alike."""


def named_apart(scope: Construct, id: str, *, prefix: str) -> Construct:
    """Make a scope in *scope* in which `state_name` begins names with *prefix*."""
    inner = Construct(scope, id)
    inner.node.set_context(_NAMES_BEGIN_WITH, prefix)
    return inner


def state_name(scope: Construct, name: str) -> str:
    """
    Return the name of a state in *scope*, because the names of states are unique in a state machine.

    `State.add_prefix` comes too late for a state within a Map or Parallel, which registers the name at once.
    """
    prefix: str = scope.node.try_get_context(_NAMES_BEGIN_WITH) or ""
    return prefix + name


def call_aws(
    scope: Construct,
    name: str,
    *,
    service: str,
    action: str,
    parameters: Mapping[str, Any],
    resources: Sequence[str],
    iam_action: str | None = None,
    assign: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | str = NO_OUTPUT,
    retries: int = 3,
    answers: Sequence[str] = (),
    task_timeout: sfn.Timeout | None = None,
    heartbeat: sfn.Timeout | None = None,
) -> tasks.CallAwsService:
    """
    Build a state that calls one AWS API, with the permission for exactly that call.

    Args:
        service: Service of the SDK integration.
        action: API action in camelCase.
        parameters: Parameters of the call in PascalCase.
        resources: Resources of the permission, as ARNs.
        iam_action: IAM action of the permission. Default: the one named like the API action.
        assign: Variables set from `$states.result`.
        outputs: Output of the state. Default: nothing.
        retries: How often throttling and outages are retried, at 1, 3, 9, … seconds, at most 60, with jitter.
        answers: Errors that are regular answers and so are never retried.
        task_timeout: With *heartbeat*: makes the state a token task that waits for a node's answer.
        heartbeat: Longest time between two heartbeats of the node that holds the token.
    """
    token_task = task_timeout is not None
    state = tasks.CallAwsService.jsonata(
        scope,
        state_name(scope, name),
        service=service,
        action=action,
        parameters=parameters,
        iam_resources=resources,
        iam_action=iam_action,
        assign=assign,
        outputs=outputs,
        integration_pattern=(
            sfn.IntegrationPattern.WAIT_FOR_TASK_TOKEN if token_task else sfn.IntegrationPattern.REQUEST_RESPONSE
        ),
        task_timeout=task_timeout,
        heartbeat_timeout=heartbeat,
    )
    if retries and not token_task:
        _retry_calls(state, retries=retries, answers=answers)
    return state


def call_permitted(
    scope: Construct,
    name: str,
    *,
    service: str,
    action: str,
    parameters: Mapping[str, Any],
    assign: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | str = NO_OUTPUT,
    retries: int = 3,
    answers: Sequence[str] = (),
) -> sfn.CustomState:
    """
    Build a state that calls one AWS API with a permission that is given elsewhere, such as one with a condition.

    See `call_aws`, which adds a permission without a condition, for the arguments.
    """
    state = sfn.CustomState(
        scope,
        state_name(scope, name),
        state_json={
            "Type": "Task",
            "Resource": f"arn:{Aws.PARTITION}:states:::aws-sdk:{service}:{action}",
            "Arguments": parameters,
            **({} if assign is None else {"Assign": assign}),
            "Output": outputs,
        },
    )
    if retries:
        _retry_calls(state, retries=retries, answers=answers)
    return state


def _retry_calls(state: sfn.TaskStateBase | sfn.CustomState, *, retries: int, answers: Sequence[str]) -> None:
    """Add the retries of `call_aws` to *state*; see there for the arguments."""
    if answers:
        # The first matching retrier applies, so these errors are not retried.
        state.add_retry(errors=list(answers), max_attempts=0)
    state.add_retry(
        errors=["States.ALL"],
        max_attempts=retries,
        interval=Duration.seconds(1),
        backoff_rate=3,
        max_delay=Duration.seconds(60),
        jitter_strategy=sfn.JitterType.FULL,
    )


def assign_safely(scope: Construct, name: str, *, assign: Mapping[str, Any]) -> sfn.Map:
    """
    Build a state that only sets variables, and whose errors can be caught.

    A Pass or Choice has no Catch; a Map has one, which also catches errors of its own expressions. This Map iterates
    over an empty list.
    """
    state = sfn.Map.jsonata(
        scope, name, items=sfn.ProvideItems.jsonata(jsonata("[]")), assign=dict(assign), outputs=NO_OUTPUT
    )
    state.item_processor(sfn.Pass.jsonata(scope, f"{name}: never"))
    return state


def failure(error: str, cause: str) -> dict[str, Any]:
    """Build the `Assign` that fails the run with *error*, and with the value of the JSONata expression *cause*."""
    return {"outcome": {"succeeded": False, "error": error, "cause": jsonata(cause)}}


CAUGHT: dict[str, Any] = {
    "outcome": {
        "succeeded": False,
        "error": jsonata("$states.errorOutput.Error"),
        "cause": jsonata("$exists($states.errorOutput.Cause) ? $states.errorOutput.Cause : ''"),
    },
    "times": jsonata("$merge([$times, {'failed_at': $now()}])"),
}
"""`Assign` of a Catch that keeps the original error and cause for the receipt and for the execution's end."""


CONDITION_FAILED = "DynamoDb.ConditionalCheckFailedException"
"""Error of a refused conditional write in the SDK integration (the optimised integration writes `DynamoDB.…`)."""
TRANSACTION_CANCELED = "DynamoDb.TransactionCanceledException"
"""Error of a cancelled transaction."""

NOW = "$floor($millis() / 1000)"
"""Expression of the present time in epoch seconds."""

MOMENT = """function($time) {
    $type($time) = 'number' ? ($time < 100000000000 ? 1000 * $time : $time) : $toMillis($string($time))
  }"""
"""
Function that converts a timestamp of an SDK integration to epoch milliseconds.

AWS's guide does not specify its form: public definitions read ISO 8601 text, and epoch milliseconds have been observed.
Numbers below 10^11 are taken as seconds.
"""

REDRIVEN = "($exists($states.context.Execution.RedriveCount) ? $states.context.Execution.RedriveCount : 0)"
"""
Expression of the number of redrives of this execution ("Accessing execution data from the Context object").

A redriven execution continues in the state in which it ended, with its variables ("Restarting state machine executions
with redrive"), but another run may hold its fleet by then.
"""

RUN_PARTITION: dict[str, str] = {"S": jsonata(f"'{contract.RUN_PREFIX}' & $run_id")}
"""Partition key of the run's items that are written only by state machines."""

NODES_PARTITION: dict[str, str] = {"S": jsonata(f"'{contract.NODES_PREFIX}' & $fleet.id & '#' & $run_id")}
"""Partition key of the items that nodes of `$fleet` write for the run."""

SECRETS_PARTITION: dict[str, str] = {"S": jsonata(f"'{contract.SECRETS_PREFIX}' & $fleet.id & '#' & $run_id")}
"""Partition key of the items that only nodes of `$fleet` may read: the run's task tokens."""

RUN_KEY = {contract.PARTITION_KEY: RUN_PARTITION, contract.SORT_KEY: {"S": contract.RUN_SORT_KEY}}
"""Key of the run's item."""


def run_id(training: str, *, name: str, started: str) -> str:
    """
    Write the expression of a run's id, as `contract.run_id` builds it.

    Args:
        training: Name of the training.
        name: Expression of the execution's name.
        started: Expression of its start as ISO 8601 in UTC, with or without fractions of a second: the Developer
            Guide's examples of the context object show both ("Accessing execution data from the Context object").
    """
    prefix = contract.training_prefix(training)
    # 2026-11-26T11:02:36.123Z: what follows the seconds is cut off.
    return f"'{prefix}' & {name} & '/' & $replace($substring({started}, 0, 19), /[-:]/, '') & 'Z'"


def attempt_digits(attempt: str) -> str:
    """Write the expression of an attempt's number as sort keys contain it."""
    return f"$pad($string({attempt}), -{contract.ATTEMPT_DIGITS}, '0')"


def now_as(name: str) -> str:
    """Write the expression that adds the present time as *name* to the run's `$times`."""
    return jsonata(f"$merge([$times, {{'{name}': $now()}}])")


def entered_as(name: str) -> str:
    """
    Write the expression that adds the time at which this state was entered as *name* to the run's `$times`.

    `now_as` would record the time of the call's answer, when others may already have seen the effect of the call.
    """
    return jsonata(f"$merge([$times, {{'{name}': $states.context.State.EnteredTime}}])")


def key_of_the_run(template: Callable[[str], str]) -> str:
    """Write the expression of one of the contract's S3 keys for the run in `$run_id`."""
    before, after = template("\0").split("\0")
    return f"'{before}' & $run_id & '{after}'"
