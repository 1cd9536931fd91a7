"""The execution of a run, seen from another state machine."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import call_aws, jsonata

DOES_NOT_EXIST: Final = "Sfn.ExecutionDoesNotExistException"
"""Step Functions forgets an execution 90 days after its end (its guide, "Service quotas")."""

ENDED_WITHOUT_SUCCESS: Final = ("ABORTED", "FAILED", "TIMED_OUT")
"""Statuses of an execution that left no model, and for which the clean-up is started."""

MOMENT: Final = """function($time) {
    $type($time) = 'number' ? ($time < 100000000000 ? 1000 * $time : $time) : $toMillis($string($time))
  }"""
"""
A function that gives epoch milliseconds for a timestamp of an SDK integration.

AWS's guide does not say how an integration writes one: public definitions read ISO 8601 text, and epoch milliseconds
have been seen. Seconds are told from milliseconds by their size.
"""


def describe_the_execution(
    scope: Construct, name: str, *, arn: str, executions: list[str], assign: str = "execution", value: str
) -> sfn.TaskStateBase:
    """
    Build the state that describes an execution and sets one variable.

    Args:
        name: The state's name.
        arn: Expression of the execution's ARN.
        executions: ARNs of the executions that it may be, for the permission.
        assign: Name of the variable.
        value: Expression of it, of `$states.result`.
    """
    return call_aws(
        scope,
        name,
        service="sfn",
        action="describeExecution",
        iam_action="states:DescribeExecution",
        parameters={"ExecutionArn": jsonata(arn)},
        resources=executions,
        assign={assign: jsonata(value)},
        answers=[DOES_NOT_EXIST],
    )


EVENT: Final = f"""(
  $moment := {MOMENT};
  $result := $states.result;
  $text := function($value) {{ $type($value) = 'string' ? $value }};
  {{
    'executionArn': $result.ExecutionArn,
    'name': $result.Name,
    'status': $result.Status,
    'startDate': $moment($result.StartDate),
    'stopDate': $exists($result.StopDate) ? $moment($result.StopDate),
    'input': $text($result.Input),
    'error': $text($result.Error),
    'cause': $text($result.Cause)
  }}
)"""
"""
What DescribeExecution tells, in the form of an event's `detail`.

As EventBridge gives it in a "Step Functions Execution Status Change": dates are epoch milliseconds, the input is JSON
text (Step Functions Developer Guide, "Automating Step Functions event delivery with EventBridge").
"""
