"""The execution of a run, seen from another state machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.workflow.states import call_aws, jsonata

DOES_NOT_EXIST = "Sfn.ExecutionDoesNotExistException"
"""Step Functions forgets an execution 90 days after its end (its guide, "Service quotas")."""

FORGOTTEN = {"status": "FORGOTTEN"}
"""`$execution` of one that there is no record of."""


def describe_the_execution(
    scope: Construct,
    name: str,
    *,
    arn: str,
    executions: list[str],
    assign: Mapping[str, Any] | None = None,
    retries: int = 3,
) -> sfn.TaskStateBase:
    """
    Build the state that sets `$execution`: `arn`, `status`, `error`, `cause`, `input`, `started_at`, `stopped_at`.

    Args:
        name: The state's name.
        arn: Expression of the execution's ARN.
        executions: ARNs of the executions that it may be, for the permission.
        assign: More variables set from `$states.result`.
        retries: See `call_aws`.
    """

    def found(member: str) -> str:
        value = f"$states.result.{member}"
        return f"$exists({value}) and $type({value}) = 'string' ? {value} : ''"

    return call_aws(
        scope,
        name,
        service="sfn",
        action="describeExecution",
        iam_action="states:DescribeExecution",
        parameters={"ExecutionArn": jsonata(arn)},
        resources=executions,
        assign={
            "execution": jsonata(
                f"""{{
  'arn': $states.result.ExecutionArn,
  'status': $states.result.Status,
  'error': {found("Error")},
  'cause': {found("Cause")},
  'input': $exists($states.result.Input) ? $states.result.Input : '{{}}',
  'started_at': $string($states.result.StartDate),
  'stopped_at': {found("StopDate")}
}}"""
            ),
            **(assign or {}),
        },
        retries=retries,
        answers=[DOES_NOT_EXIST],
    )
