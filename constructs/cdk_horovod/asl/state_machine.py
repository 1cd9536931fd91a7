"""The state machines of this library, which are alike but for what they do."""

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
    Create a state machine in JSONata, traced, that logs what it does without the data.

    Args:
        scope: Construct that owns it; it can own one.
        definition: Its states.
        timeout: Longest time of one execution.
        log_group: Where it logs to.
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
