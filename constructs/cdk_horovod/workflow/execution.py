"""The state that describes the execution of a run from another state machine."""

from __future__ import annotations

from typing import Final

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.states import MOMENT, call_aws, jsonata

DOES_NOT_EXIST: Final = "Sfn.ExecutionDoesNotExistException"
"""Error for an execution that Step Functions has deleted, 90 days after its end (its guide, "Service quotas")."""

ENDED_WITHOUT_SUCCESS: Final = ("ABORTED", "FAILED", "TIMED_OUT")
"""Statuses of executions for which the clean-up is started."""


def describe_the_execution(
    scope: Construct, name: str, *, arn: str, executions: list[str], assign: str = "execution", value: str
) -> sfn.TaskStateBase:
    """
    Build the state that describes an execution and sets one variable.

    Args:
        scope: Scope of the state.
        name: Name of the state.
        arn: Expression of the execution's ARN.
        executions: ARNs of the possible executions, for the permission.
        assign: Name of the variable.
        value: Expression of its value from `$states.result`.
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
Expression that converts the result of DescribeExecution to the `detail` of an event.

In EventBridge's "Step Functions Execution Status Change" dates are epoch milliseconds, and the input is JSON text (Step
Functions Developer Guide, "Automating Step Functions event delivery with EventBridge").
"""
