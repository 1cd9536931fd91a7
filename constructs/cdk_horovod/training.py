"""The construct that turns a fleet, buckets and an image into runs."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import ArnFormat, CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge, acknowledge_objects
from cdk_horovod.engines import EngineTarget, IEngine
from cdk_horovod.image import TrainingImage
from cdk_horovod.ledger import Ledger
from cdk_horovod.storage import ITrainingStorage
from cdk_horovod.workflow.definition import run_definition
from cdk_horovod.workflow.limits import RunLimits
from horovod_node import contract


class HorovodTraining(Construct):
    """
    Starts, trains and terminates a Horovod cluster for every run.

    Creates: the run's state machine (no Lambda), its ledger unless one is given, two log groups (state machine, nodes),
    the nodes' permissions, and a stack output through which clients find all this.

    Args:
        storage: Buckets for scripts, data, models and receipts.
        image: What runs on every node.
        engine: What provides the nodes, for example `Engine.ec2(fleet)`.
        data_buckets: More buckets that runs may read data from. Default: only the storage's data bucket.
        ledger: Default: a new one.
        max_runtime: Longest training of a run, and its default. Default: 24 hours.
        queue_timeout: Longest wait for the fleet. Default: 24 hours.
        launch_timeout: The first node must be there this long after the start. Default: 15 minutes.
        start_timeout: The whole ring must be ready this long after the start. Default: 30 minutes.
        save_timeout: Longest packing and upload of the model. Default: 1 hour.
        heartbeat: A silent leader is given up after this time. Default: 60 seconds.
        first_step_timeout:
            The first training step must come this long after the ranks started: the time for reading data into
            memory and compiling. Default: 30 minutes.
        stall_timeout: Every later step must come this long after the one before. Default: 10 minutes.
        poll_interval: Pause between two looks at the queue, and between two looks at nodes that go away.
            Default: 15 seconds.
        removal_policy: What becomes of ledger and log groups with the stack. Default: they are removed, because
            models and receipts are in the storage.

    Raises:
        ValueError: If two of the times contradict each other, or the fleet already serves another training.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        storage: ITrainingStorage,
        image: TrainingImage,
        engine: IEngine,
        data_buckets: Sequence[s3.IBucket] = (),
        ledger: Ledger | None = None,
        max_runtime: Duration | None = None,
        queue_timeout: Duration | None = None,
        launch_timeout: Duration | None = None,
        start_timeout: Duration | None = None,
        save_timeout: Duration | None = None,
        heartbeat: Duration | None = None,
        first_step_timeout: Duration | None = None,
        stall_timeout: Duration | None = None,
        poll_interval: Duration | None = None,
        removal_policy: RemovalPolicy = RemovalPolicy.DESTROY,
    ) -> None:
        super().__init__(scope, id)
        self.limits = RunLimits(
            max_runtime=max_runtime or Duration.hours(24),
            queue_timeout=queue_timeout or Duration.hours(24),
            launch_timeout=launch_timeout or Duration.minutes(15),
            start_timeout=start_timeout or Duration.minutes(30),
            save_timeout=save_timeout or Duration.hours(1),
            heartbeat=heartbeat or Duration.seconds(60),
            first_step_timeout=first_step_timeout or Duration.minutes(30),
            stall_timeout=stall_timeout or Duration.minutes(10),
            poll_interval=poll_interval or Duration.seconds(15),
        )
        self._storage = storage
        self.ledger = ledger or Ledger(self, "Ledger", removal_policy=removal_policy)
        self.node_log_group = logs.LogGroup(
            self, "NodeLogs", retention=logs.RetentionDays.ONE_MONTH, removal_policy=removal_policy
        )
        readable = (storage.data_bucket, *data_buckets)
        target = EngineTarget(image=image, ledger=self.ledger, node_log_group=self.node_log_group)
        self.engine = engine.bind(self, target)
        self.state_machine = sfn.StateMachine(
            self,
            "StateMachine",
            query_language=sfn.QueryLanguage.JSONATA,
            definition_body=sfn.DefinitionBody.from_chainable(
                run_definition(
                    self,
                    engine=self.engine,
                    storage=storage,
                    readable=readable,
                    ledger=self.ledger,
                    limits=self.limits,
                )
            ),
            timeout=self.limits.execution_timeout,
            tracing_enabled=True,
            logs=sfn.LogOptions(
                destination=logs.LogGroup(
                    self, "WorkflowLogs", retention=logs.RetentionDays.ONE_MONTH, removal_policy=removal_policy
                ),
                level=sfn.LogLevel.ALL,
                # Task tokens are credentials: they stay out of the log.
                include_execution_data=False,
            ),
        )
        self._permit_the_workflow()
        self._permit_the_nodes(readable)
        self._connection = CfnOutput(
            self, "Connection", description=contract.CONNECTION_DESCRIPTION, value=self._connection_json()
        )

    def grant_start(self, grantee: iam.IGrantable) -> None:
        """Let *grantee* start runs: find the connection, upload scripts, start, and read what becomes of it."""
        self.state_machine.grant_start_execution(grantee)
        self._storage.grant_upload_source(grantee)
        self.grant_read(grantee)

    def grant_read(self, grantee: iam.IGrantable) -> None:
        """Let *grantee* see runs: status, ledger, receipts, models."""
        self._grant_on_executions(grantee, "states:DescribeExecution", "states:GetExecutionHistory")
        grantee.grant_principal.add_to_principal_policy(
            iam.PolicyStatement(actions=["cloudformation:DescribeStacks"], resources=[Stack.of(self).stack_id])
        )
        self.ledger.grant_read(grantee)
        self._storage.grant_read_models(grantee)

    def grant_stop(self, grantee: iam.IGrantable) -> None:
        """Let *grantee* stop runs."""
        self._grant_on_executions(grantee, "states:StopExecution")

    def metric_started(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count started runs. Default period: 5 minutes."""
        return self.state_machine.metric_started(period=period)

    def metric_succeeded(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count runs that ended with a model. Default period: 5 minutes."""
        return self.state_machine.metric_succeeded(period=period)

    def metric_failed(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count runs that failed. Default period: 5 minutes."""
        return self.state_machine.metric_failed(period=period)

    def metric_time(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Measure runs from start to end, in milliseconds. Default period: 5 minutes."""
        return self.state_machine.metric_time(period=period)

    def _grant_on_executions(self, grantee: iam.IGrantable, *actions: str) -> None:
        executions = Stack.of(self).format_arn(
            service="states",
            resource="execution",
            resource_name=self.state_machine.state_machine_name,
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        iam.Grant.add_to_principal(
            grantee=grantee, actions=list(actions), resource_arns=[f"{executions}:*"], scope=self
        )
        acknowledge_objects(
            grantee,
            owner=self.state_machine,
            arn=executions,
            path=":*",
            reason="An execution has the name of its run, which is not known before.",
        )

    def _permit_the_workflow(self) -> None:
        # Every state brought the permission of its own call; these add the buckets' key.
        self._storage.grant_write_receipts(self.state_machine)
        self._storage.grant_read_models(self.state_machine)
        acknowledge(
            self.state_machine.role,
            rule="IAM5[Resource::*]",
            reason="Auto Scaling's Describe actions, X-Ray and log delivery know no resources.",
        )

    def _permit_the_nodes(self, readable: Sequence[s3.IBucket]) -> None:
        # A policy of its own: in the role's default policy the state machine's ARN would close a circle (state machine,
        # group, launch template, role policy, state machine) that CloudFormation cannot deploy.
        role = self.engine.node_role
        policy = iam.Policy(self, "NodePolicy", roles=[role])
        policy.add_statements(
            iam.PolicyStatement(
                actions=["states:SendTaskSuccess", "states:SendTaskFailure", "states:SendTaskHeartbeat"],
                resources=[self.state_machine.state_machine_arn],
            ),
            iam.PolicyStatement(
                actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[self.node_log_group.log_group_arn]
            ),
        )
        self.ledger.grant_node(role)
        self._storage.grant_read_data(role)
        self._storage.grant_write_models(role)
        for bucket in readable[1:]:
            role.add_to_principal_policy(iam.PolicyStatement(actions=["s3:ListBucket"], resources=[bucket.bucket_arn]))
            role.add_to_principal_policy(
                iam.PolicyStatement(actions=["s3:GetObject"], resources=[bucket.arn_for_objects("*")])
            )
            if bucket.encryption_key is not None:
                bucket.encryption_key.grant_decrypt(role)
            acknowledge_objects(
                role,
                owner=bucket,
                arn=bucket.bucket_arn,
                path="/*",
                reason="A request names the prefixes that it reads, so every object of a data bucket must be readable.",
            )

    def _connection_json(self) -> str:
        return Stack.of(self).to_json_string(
            {
                contract.CONNECTION_VERSION: contract.CONTRACT_VERSION,
                contract.CONNECTION_STATE_MACHINE: self.state_machine.state_machine_arn,
                contract.CONNECTION_DATA_BUCKET: self._storage.data_bucket.bucket_name,
                contract.CONNECTION_MODEL_BUCKET: self._storage.model_bucket.bucket_name,
                contract.CONNECTION_LEDGER_TABLE: self.ledger.table.table_name,
                contract.CONNECTION_FLEET: self.engine.fleet_id,
                contract.CONNECTION_MAX_GPUS: self.engine.max_gpus,
                contract.CONNECTION_GPU_STEP: self.engine.gpu_step,
                contract.CONNECTION_MAX_RUNTIME_SECONDS: int(self.limits.max_runtime.to_seconds()),
            }
        )
