"""Grants and metrics of a training, whether this app or another one deployed it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Unpack

from aws_cdk import Duration, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.engines.group_states import AUTO_SCALING_READS
from cdk_horovod.engines.training_job_permissions import JOB_READS
from cdk_horovod.node_metrics import MetricOptions, node_metric, with_defaults
from cdk_horovod.permissions.executions import accept_executions, executions_of
from cdk_horovod.permissions.reading import permit_reading
from cdk_horovod.resources.ledger import grant_read_ledger
from cdk_horovod.resources.storage import ITrainingStorage, TrainingStorage
from cdk_horovod.run_task import RunTask, refuse_tokens, run_task
from horovod_node import contract


class IHorovodTraining(Protocol):
    """A training of this app or of another one, with grants to use it and metrics of its runs."""

    @property
    def queue(self) -> str:
        """Name of the training in the ids of its runs, and of the queue in which they wait."""

    @property
    def state_machine(self) -> sfn.IStateMachine:
        """State machine whose executions are the runs."""

    @property
    def node_log_group(self) -> logs.ILogGroup:
        """Log group of the nodes."""

    def grant_start(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* start runs."""

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* see runs."""

    def grant_stop(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* stop runs."""

    def run_task(
        self,
        scope: Construct,
        id: str,
        *,
        request: Mapping[str, Any] | str,
        name: str | None = None,
        associate_with_parent: bool = True,
        outputs: Any = None,
        assign: Mapping[str, Any] | None = None,
    ) -> RunTask:
        """Build the state with which another state machine starts a run and waits for its end."""

    def metric(self, name: str, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Return any metric that the training's nodes publish."""

    def metric_failed(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count runs that failed."""


class DeployedTraining(Construct):
    """
    Grants and metrics of a training: `HorovodTraining` creates one, `from_attributes` and `from_stack_output` find one.

    Attributes:
        queue: Name of the training in the ids of its runs, and of the queue in which they wait; plain text.
        state_machine: State machine whose executions are the runs.
        node_log_group: Log group of the nodes.
    """

    queue: str
    state_machine: sfn.IStateMachine
    node_log_group: logs.ILogGroup
    _storage: ITrainingStorage
    _ledger_table: dynamodb.ITable
    _stack_arn: str | None
    _engine_reads: Sequence[str]
    _reads_by_resource: Mapping[str, Sequence[str]]

    @staticmethod
    def from_attributes(
        scope: Construct,
        id: str,
        *,
        queue: str,
        state_machine_arn: str,
        ledger_table_name: str,
        storage: ITrainingStorage,
        node_log_group_name: str,
        stack_arn: str | None = None,
        engine_reads: Sequence[str] = AUTO_SCALING_READS,
        job_prefixes: Sequence[str] = (),
    ) -> IHorovodTraining:
        """
        Import a training that another app deployed, for grants, alarms and dashboards; creates nothing.

        Args:
            scope: Scope of the import.
            id: Id of the import.
            queue: Name of the training, with which its runs' ids begin.
            state_machine_arn: ARN of its runs' state machine.
            ledger_table_name: Name of its ledger's table.
            storage: Its buckets, for example `TrainingStorage.from_buckets(…)`.
            node_log_group_name: Name of its nodes' log group.
            stack_arn: ARN of the stack whose output has the connection; `grant_read` then allows reading it.
            engine_reads: Actions with which nodes are seen booting, see `EngineConfig.reads`. Default: Auto Scaling's.
            job_prefixes: What begins the names of its SageMaker training jobs. Default: it has none.
        """
        training = DeployedTraining(scope, id)
        training.queue = queue
        training.state_machine = sfn.StateMachine.from_state_machine_arn(training, "Runs", state_machine_arn)
        training.node_log_group = logs.LogGroup.from_log_group_name(training, "NodeLogs", node_log_group_name)
        training._ledger_table = dynamodb.Table.from_table_name(training, "Ledger", ledger_table_name)
        training._storage = storage
        training._stack_arn = stack_arn
        training._engine_reads = tuple(engine_reads)
        training._reads_by_resource = {
            Stack.of(training).format_arn(
                service="sagemaker", resource="training-job", resource_name=f"{prefix}*"
            ): JOB_READS
            for prefix in job_prefixes
        }
        return training

    @staticmethod
    def from_stack_output(
        scope: Construct,
        id: str,
        *,
        output: str,
        encryption_key_arn: str | None = None,
        stack_arn: str | None = None,
    ) -> IHorovodTraining:
        """
        Import a training from the value of its stack output; creates nothing, and makes no calls at synthesis.

        Args:
            scope: Scope of the import.
            id: Id of the import.
            output: Value of the stack output `Connection` of `HorovodTraining`, JSON; keep it in your app's context.
            encryption_key_arn: ARN of the buckets' KMS key, if they have one; grants then include the key.
            stack_arn: ARN of the stack with that output; `grant_read` then allows reading it.

        Raises:
            ValueError: If *output* is not the value of such an output.
        """
        try:
            facts = json.loads(output)
            state_machine, queue = facts[contract.CONNECTION_STATE_MACHINE], facts[contract.CONNECTION_QUEUE]
            data, model = facts[contract.CONNECTION_DATA_BUCKET], facts[contract.CONNECTION_MODEL_BUCKET]
            table, log_group = facts[contract.CONNECTION_LEDGER_TABLE], facts[contract.CONNECTION_LOG_GROUP]
            fleets = facts[contract.CONNECTION_FLEETS]
            in_groups = any(contract.CONNECTION_GROUP in fleet for fleet in fleets)
            prefixes = [
                fleet[contract.CONNECTION_JOB_PREFIX] for fleet in fleets if contract.CONNECTION_JOB_PREFIX in fleet
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                "'output' must be the value of the stack output with the description "
                f"'{contract.CONNECTION_DESCRIPTION}', got {output[:60]!r}"
            ) from error
        holder = Construct(scope, f"{id}Storage")
        key = kms.Key.from_key_arn(holder, "Key", encryption_key_arn) if encryption_key_arn else None
        buckets = [
            s3.Bucket.from_bucket_attributes(holder, name, bucket_name=bucket, encryption_key=key)
            for name, bucket in (("Data", data), ("Model", model))
        ]
        storage = TrainingStorage.from_buckets(holder, "Buckets", data_bucket=buckets[0], model_bucket=buckets[1])
        return DeployedTraining.from_attributes(
            scope,
            id,
            queue=queue,
            state_machine_arn=state_machine,
            ledger_table_name=table,
            storage=storage,
            node_log_group_name=log_group,
            stack_arn=stack_arn,
            engine_reads=AUTO_SCALING_READS if in_groups else (),
            job_prefixes=prefixes,
        )

    def grant_start(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* start runs: read the connection, upload scripts, start executions, and all of `grant_read`."""
        start = self.state_machine.grant_start_execution(grantee)
        return start.combine(self._storage.grant_upload_source(grantee)).combine(self.grant_read(grantee))

    def grant_read(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* see runs: status, ledger, logs, receipts, models, and what instances cost."""
        executions = self._grant_on_executions(grantee, "states:DescribeExecution")
        if self._stack_arn is not None:
            executions = executions.combine(
                iam.Grant.add_to_principal(
                    grantee=grantee, actions=["cloudformation:DescribeStacks"], resource_arns=[self._stack_arn]
                )
            )
        facts = permit_reading(
            grantee,
            machine=self.state_machine,
            log_group=self.node_log_group,
            engine_reads=self._engine_reads,
            reads_by_resource=self._reads_by_resource,
        )
        ledger = grant_read_ledger(grantee, table=self._ledger_table)
        models = self._storage.grant_read_models(grantee, training=self.queue)
        return executions.combine(facts).combine(ledger).combine(models)

    def grant_stop(self, grantee: iam.IGrantable) -> iam.Grant:
        """Let *grantee* stop runs."""
        return self._grant_on_executions(grantee, "states:StopExecution")

    def run_task(
        self,
        scope: Construct,
        id: str,
        *,
        request: Mapping[str, Any] | str,
        name: str | None = None,
        associate_with_parent: bool = True,
        outputs: Any = None,
        assign: Mapping[str, Any] | None = None,
    ) -> RunTask:
        """
        Build the state with which another state machine starts a run and waits for its end (`startExecution.sync:2`).

        A run that fails fails the state with `States.TaskFailed`, whose cause is JSON with the run's own error and
        cause: `$parse($states.errorOutput.Cause).Error`. When the other execution is stopped, Step Functions stops the
        run, too, and the clean-up terminates its nodes. Its documentation promises no such thing for an execution that
        times out: the run may then go on, up to its own limits.

        Args:
            scope: Scope of the state; in the account and Region of the training.
            id: Name of the state.
            request:
                Request of the run, as `cdk-horovod train --dry-run` prints it under `input`. Its values may be JSONata
                expressions, and it may be one: `"{% $states.input.request %}"`. Values that are known at synthesis are
                checked if the training is in this app.
            name:
                JSONata expression of the run's name, 1 to 80 letters, digits, '-' and '_'.
                Default: a name that Step Functions makes up, a UUID.
            associate_with_parent: Whether the console of Step Functions shows the run below the execution that started
                it. Default: it does.
            outputs: Output of the state, with JSONata expressions over `$states.result`, the description of the ended
                execution. Default: the run's own output, an object with `run`, `model` and `receipt`.
            assign: Variables that the state sets, likewise. Default: none.

        Raises:
            ValueError: If the request would be refused, *request* or a field's name is a CDK token, *name* is not an
                expression, or the training is in another account or Region.
        """
        refuse_tokens(request)
        self._check_request(request)
        return run_task(
            scope,
            id,
            runs=self.state_machine,
            request=request,
            name=name,
            associate_with_parent=associate_with_parent,
            outputs=outputs,
            assign=assign,
        )

    def metric(self, name: str, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """
        Return any metric that the training's nodes publish.

        Args:
            name: Name of the metric in CloudWatch, one of the contract's `METRIC_*`.
            run: Name of a run. Default: all runs of the training together.
            options: Options as for CDK's own metrics. Default: average, 1 minute.
        """
        return node_metric(name, training=self.queue, run=run, options=options)

    def metric_started(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count started runs. Default period: 5 minutes."""
        return self.state_machine.metric_started(**options)

    def metric_succeeded(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count runs that ended with a model. Default period: 5 minutes."""
        return self.state_machine.metric_succeeded(**options)

    def metric_failed(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count runs that failed. Default period: 5 minutes."""
        return self.state_machine.metric_failed(**options)

    def metric_timed_out(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count runs whose execution reached its timeout. Default period: 5 minutes."""
        return self.state_machine.metric_timed_out(**options)

    def metric_time(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Measure runs from start to end, in milliseconds. Default period: 5 minutes."""
        return self.state_machine.metric_time(**options)

    def metric_samples_per_second(
        self, *, run: str | None = None, **options: Unpack[MetricOptions]
    ) -> cloudwatch.Metric:
        """
        Measure the samples per second of *run*, or of the average run. Default period: 1 minute.

        Only scripts that use `horovod_node.training` publish them.
        """
        return self._measure(contract.METRIC_SAMPLES_PER_SECOND, run, cloudwatch.Stats.AVERAGE, options)

    def metric_step_time(self, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Measure the step time of rank 0 in seconds, of *run* or of all runs. Default: p50 over 1 minute."""
        return self._measure(contract.METRIC_STEP_SECONDS, run, "p50", options)

    def metric_ring_size(self, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count the ranks of the ring of *run*, or of the largest ring. Default period: 1 minute."""
        return self._measure(contract.METRIC_RING_SIZE, run, cloudwatch.Stats.MAXIMUM, options)

    def metric_gpu_utilization(self, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Measure GPU utilization in percent, of *run* or of all runs. Default period: 1 minute."""
        return self._measure(contract.METRIC_GPU_UTILIZATION, run, cloudwatch.Stats.AVERAGE, options)

    def metric_gpu_memory(self, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Measure GPU memory in use in percent, of *run* or of all runs. Default period: 1 minute."""
        return self._measure(contract.METRIC_GPU_MEMORY, run, cloudwatch.Stats.AVERAGE, options)

    def metric_bytes_read(self, *, run: str | None = None, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Count bytes that ranks read, of *run* or of all runs. Default period: 1 minute."""
        return self._measure(contract.METRIC_BYTES_READ, run, cloudwatch.Stats.SUM, options)

    def metric_ceiling_used(self, **options: Unpack[MetricOptions]) -> cloudwatch.Metric:
        """Measure the cost of running runs in percent of their ceilings, the highest. Default period: 5 minutes."""
        widest = with_defaults(options, statistic=cloudwatch.Stats.MAXIMUM, period=Duration.minutes(5))
        return self.metric(contract.METRIC_CEILING_USED, **widest)

    def _check_request(self, request: Mapping[str, Any] | str) -> None:
        """Check what is known of *request*; an imported training knows no limits."""

    def _measure(self, name: str, run: str | None, statistic: str, options: MetricOptions) -> cloudwatch.Metric:
        return self.metric(name, run=run, **with_defaults(options, statistic=statistic))

    def _grant_on_executions(self, grantee: iam.IGrantable, *actions: str) -> iam.Grant:
        grant = iam.Grant.add_to_principal(
            grantee=grantee,
            actions=list(actions),
            resource_arns=[f"{executions_of(self.state_machine)}:*"],
        )
        accept_executions(grantee, self.state_machine)
        return grant
