"""The third of the four layers that leave nothing running: a look at every fleet, by the clock."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.asl.state_machine import workflow_machine
from cdk_horovod.engines import EngineConfig
from cdk_horovod.permissions.executions import executions_of, permit_workflow
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.termination import reaper_definition as workflow
from horovod_node import contract


class Reaper(Construct):
    """
    Returns to zero every fleet whose lease is missing, expired, or held by an execution that does not run.

    Creates: an Express state machine, and an EventBridge rule that starts it every *interval*.

    Cost at rest: 8,640 executions a month at the default interval, each of about a second: some 0.02 USD a month, and
    the lines that they log (AWS Step Functions pricing, Express Workflows, 2026; us-east-1).

    Args:
        training: The run's state machine.
        clean_up: The clean-up's; the reaper leaves a fleet alone that it is emptying, and starts it for dead runs.
        engine: What provides the nodes.
        ledger: Where leases are.
        queue: Name of the training's queue.
        interval: Between two looks; whole minutes.
        poll_interval: Between two looks at nodes that go.
        log_group: Where the state machine logs to.

    Raises:
        ValueError: If *interval* is not in whole minutes, which EventBridge wants.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        training: sfn.StateMachine,
        clean_up: sfn.StateMachine,
        engine: EngineConfig,
        ledger: Ledger,
        queue: str,
        interval: Duration,
        poll_interval: Duration,
        log_group: logs.ILogGroup,
    ) -> None:
        seconds = interval.to_seconds(integral=False)
        if seconds < 60 or seconds % 60:
            raise ValueError(
                f"'reaper_interval' must be whole minutes and at least 1, got {interval.to_human_string()}"
            )
        super().__init__(scope, id)
        self._training = training.state_machine_name
        self._interval = interval
        runs = f"{executions_of(training)}:"
        self.state_machine = workflow_machine(
            self,
            kind=sfn.StateMachineType.EXPRESS,
            definition=workflow.reaper_definition(
                self,
                engine=engine,
                ledger=ledger,
                queue=queue,
                poll_interval=poll_interval,
                runs=runs,
                executions=[f"{runs}*", f"{executions_of(clean_up)}:*"],
                clean_up=clean_up.state_machine_arn,
                training=self._training,
            ),
            timeout=workflow.TIMEOUT,
            log_group=log_group,
        )
        self.state_machine.add_to_role_policy(workflow.permit_reports())
        permit_workflow(self.state_machine, reads=[training, clean_up])
        self.rule = events.Rule(
            self,
            "Schedule",
            description="Look at every fleet: nothing may run that no run holds",
            schedule=events.Schedule.rate(interval),
            targets=[targets.SfnStateMachine(self.state_machine)],
        )

    def metric_reaped(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count fleets that were reclaimed from runs that had ended. Default period: 5 minutes."""
        return self._metric(workflow.METRIC_REAPED, cloudwatch.Stats.SUM, period)

    def metric_capacity_without_lease(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Measure capacity that nobody held, in GPUs or instances. Default period: 5 minutes."""
        return self._metric(workflow.METRIC_CAPACITY_WITHOUT_LEASE, cloudwatch.Stats.MAXIMUM, period)

    def metric_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """
        Count looks that failed, and one more if there was none at all. Default period: three intervals.

        AWS/States has no metric of "did not start"; missing starts count as 0.
        """
        machine = self.state_machine
        return cloudwatch.MathExpression(
            expression="FILL(failed, 0) + FILL(timedout, 0) + IF(FILL(started, 0) < 1, 1, 0)",
            label="Looks of the reaper that failed or did not happen",
            using_metrics={
                "failed": machine.metric_failed(),
                "timedout": machine.metric_timed_out(),
                "started": machine.metric("ExecutionsStarted", statistic=cloudwatch.Stats.SUM),
            },
            period=period or Duration.seconds(3 * self._interval.to_seconds()),
        )

    def _metric(self, name: str, statistic: str, period: Duration | None) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=contract.METRIC_NAMESPACE,
            metric_name=name,
            dimensions_map={contract.METRIC_TRAINING: self._training},
            statistic=statistic,
            period=period or Duration.minutes(5),
        )
