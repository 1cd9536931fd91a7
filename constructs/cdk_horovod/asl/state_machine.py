"""The settings that all state machines of this library share."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct


def workflow_machine(
    scope: Construct,
    *,
    definition: sfn.IChainable,
    timeout: Duration,
    log_group: logs.ILogGroup,
    kind: sfn.StateMachineType | None = None,
) -> sfn.StateMachine:
    """
    Create a state machine in JSONata, with X-Ray tracing, and with logs that leave out the execution data.

    Args:
        scope: Construct that owns the state machine; it can own only one.
        definition: The states.
        timeout: Longest time of one execution.
        log_group: Log group of the state machine.
        kind: Standard or Express. Default: Standard.
    """
    return sfn.StateMachine(
        scope,
        "StateMachine",
        state_machine_type=kind,
        query_language=sfn.QueryLanguage.JSONATA,
        definition_body=sfn.DefinitionBody.from_chainable(definition),
        timeout=timeout,
        tracing_enabled=True,
        logs=sfn.LogOptions(
            destination=log_group,
            level=sfn.LogLevel.ALL,
            # Task tokens are credentials: they stay out of the log.
            include_execution_data=False,
        ),
    )
