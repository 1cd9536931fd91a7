"""The clean-up after executions that did not succeed: the second of four layers that leave nothing running."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.state_machine import workflow_machine
from cdk_horovod.engines import EngineConfig
from cdk_horovod.permissions.executions import permit_workflow
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.termination.clean_up_definition import clean_up_definition
from cdk_horovod.workflow.execution import ENDED_WITHOUT_SUCCESS
from cdk_horovod.workflow.run_timeouts import RunTimeouts


class CleanUp(Construct):
    """
    Empties the fleet of a run whose execution was stopped, timed out, or failed before it could do so itself.

    Creates: a state machine, and an EventBridge rule that starts it for every execution that did not succeed.

    Cost at rest: none.

    Args:
        training: The runs' state machine.
        engine: The engine's configuration.
        bucket: Bucket for receipts.
        ledger: The training's ledger.
        queue: Name of the training's queue.
        timeouts: Timeouts of a run.
        log_group: Log group of the state machine.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        training: sfn.StateMachine,
        engine: EngineConfig,
        bucket: s3.IBucket,
        ledger: Ledger,
        queue: str,
        timeouts: RunTimeouts,
        log_group: logs.ILogGroup,
    ) -> None:
        super().__init__(scope, id)
        self.state_machine = workflow_machine(
            self,
            definition=clean_up_definition(
                self,
                engine=engine,
                bucket=bucket,
                ledger=ledger,
                queue=queue,
                timeouts=timeouts,
            ),
            # If nodes do not terminate within this time a person must act; the alarm asks for one.
            timeout=Duration.hours(6),
            log_group=log_group,
        )
        permit_workflow(self.state_machine, wildcards=engine.wildcards)
        self.rule = events.Rule(
            self,
            "Rule",
            description="A run's execution ended without success: see that nothing of it is left running",
            event_pattern=events.EventPattern(
                source=["aws.states"],
                detail_type=["Step Functions Execution Status Change"],
                detail={
                    "stateMachineArn": [training.state_machine_arn],
                    "status": list(ENDED_WITHOUT_SUCCESS),
                },
            ),
            # By default, EventBridge retries a failed start for 24 hours.
            targets=[targets.SfnStateMachine(self.state_machine)],
        )

    def metric_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """Count clean-ups that failed, and events that could not start one. Default period: 5 minutes."""
        machine = self.state_machine
        undelivered = cloudwatch.Metric(
            namespace="AWS/Events",
            metric_name="FailedInvocations",
            dimensions_map={"RuleName": self.rule.rule_name},
            statistic=cloudwatch.Stats.SUM,
        )
        return cloudwatch.MathExpression(
            expression="SUM(METRICS())",
            label="Clean-ups that failed",
            using_metrics={
                "failed": machine.metric_failed(),
                "aborted": machine.metric_aborted(),
                "timedout": machine.metric_timed_out(),
                "undelivered": undelivered,
            },
            period=period or Duration.minutes(5),
        )
