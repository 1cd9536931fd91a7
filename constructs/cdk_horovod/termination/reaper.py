"""The reaper, which checks every fleet on a schedule: the third of four layers that leave nothing running."""

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
    Scales every fleet to zero whose lease is missing, expired, or held by an execution that is not running.

    Creates: an Express state machine, and an EventBridge rule that starts it every *interval*.

    Cost at rest: 8,640 executions a month at the default interval, each of about a second: some 0.02 USD a month, plus
    their logs (AWS Step Functions pricing, Express Workflows, 2026; us-east-1).

    Args:
        training: The runs' state machine.
        clean_up: The clean-up's state machine, which the reaper starts for ended runs. The reaper leaves fleets alone
            that it is emptying.
        engine: The engine's configuration.
        ledger: The training's ledger.
        queue: Name of the training's queue.
        interval: Time between two executions of the reaper; whole minutes.
        poll_interval: Time between two polls of terminating nodes.
        log_group: Log group of the state machine.

    Raises:
        ValueError: If *interval* is not in whole minutes, as EventBridge requires.
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
        permit_workflow(self.state_machine, wildcards=engine.wildcards, reads=[training, clean_up])
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
        """Measure the capacity of fleets that no run held, in GPUs or instances. Default period: 5 minutes."""
        return self._metric(workflow.METRIC_CAPACITY_WITHOUT_LEASE, cloudwatch.Stats.MAXIMUM, period)

    def metric_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """
        Count failed executions of the reaper, plus 1 if none started. Default period: three intervals.

        AWS/States has no metric for executions that did not start, so missing data of started ones counts as 0.
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
