"""`HorovodTraining`, the construct that trains runs on a fleet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import CfnOutput, Duration, Fn, Names, RemovalPolicy, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge_objects
from cdk_horovod.asl.state_machine import workflow_machine
from cdk_horovod.deployed_training import DeployedTraining
from cdk_horovod.engines import EngineTarget, IEngine
from cdk_horovod.permissions.executions import permit_own_executions, permit_workflow
from cdk_horovod.permissions.node_permissions import permit_nodes
from cdk_horovod.resources.image import TrainingImage
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.resources.storage import ITrainingStorage
from cdk_horovod.run_task import later_fields
from cdk_horovod.termination.clean_up import CleanUp
from cdk_horovod.termination.reaper import Reaper
from cdk_horovod.workflow.capacity_search import longest_forming
from cdk_horovod.workflow.definition import run_definition
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract


class HorovodTraining(DeployedTraining):
    """
    Starts, trains and terminates a Horovod cluster for every run.

    One training is one trust domain: a run's script can change checkpoints and TensorBoard files of other runs of the
    same training, and read their requests and models (see docs/security.md). Give teams that must be isolated from each
    other one training each.

    Creates: the runs' state machine (no Lambda), `CleanUp` and `Reaper`, a ledger unless one is given, two log groups
    (state machines, nodes), the nodes' permissions, and a stack output with the connection for clients.

    Args:
        storage: Buckets for scripts, data, models and receipts.
        engine: Engine that provides the nodes, for example `Engine.ec2(fleet)` or `Engine.ecs(fleet)`.
        image: Container image of the nodes. Default: `TrainingImage.from_profile()`, built when the app is deployed.
        data_buckets: Further buckets from which runs may read data. Default: only the storage's data bucket.
        ledger: A ledger that no other training uses. Default: a new one.
        max_restarts:
            How often a run that loses its leader, or a node that its ring needs, starts again from its newest
            checkpoint, unless its request says otherwise; 0 to 20. Default: 3.
        max_cost_usd:
            Highest and default cost ceiling of a run's instances, in USD. A run whose prices are unknown is limited
            only by its timeouts, and its receipt says so. Default: only the ceiling of a request.
        on_demand_prices:
            On-Demand prices in USD an hour, by instance type. With these prices, submitters cannot circumvent
            *max_cost_usd*. Spot prices are always looked up. Default: the Price List API, which has endpoints in
            us-east-1, eu-central-1 and ap-south-1; in other Regions the client looks the prices up and submits them.
        timeouts: Timeouts of each part of a run. Default: those of `RunTimeouts`.
        keep_checkpoints: Number of a run's newest checkpoints that are kept in S3. Default: 3.
        reaper_interval: Time between two executions of the reaper; whole minutes. Default: 5 minutes.
        removal_policy: Whether ledger and log groups are deleted with the stack. Default: they are; models and receipts
            are in the storage.

    Raises:
        TypeError: If *engine* is not an engine, but a fleet, for example.
        ValueError: If a price is not more than 0, or a fleet or the ledger already serves another training.
    """

    state_machine: sfn.StateMachine
    node_log_group: logs.LogGroup

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        storage: ITrainingStorage,
        engine: IEngine,
        image: TrainingImage | None = None,
        data_buckets: Sequence[s3.IBucket] = (),
        ledger: Ledger | None = None,
        max_restarts: int = 3,
        max_cost_usd: float | None = None,
        on_demand_prices: Mapping[str, float] | None = None,
        timeouts: RunTimeouts | None = None,
        keep_checkpoints: int = 3,
        reaper_interval: Duration | None = None,
        removal_policy: RemovalPolicy = RemovalPolicy.DESTROY,
    ) -> None:
        if not hasattr(engine, "bind"):
            raise TypeError(f"'engine' must be an engine, such as Engine.ec2(fleet), got a {type(engine).__name__}")
        prices = dict(on_demand_prices or {})
        for name, usd in {"max_cost_usd": max_cost_usd, **prices}.items():
            if usd is not None and not 0 < usd < math.inf:
                raise ValueError(f"'{name}' must be more than 0 USD, got {usd}")
        if not 0 <= max_restarts <= contract.MOST_RESTARTS:
            raise ValueError(f"'max_restarts' must be from 0 to {contract.MOST_RESTARTS}, got {max_restarts}")
        if keep_checkpoints < 1:
            raise ValueError(f"'keep_checkpoints' must be at least 1, got {keep_checkpoints}")
        super().__init__(scope, id)
        self.timeouts = timeouts or RunTimeouts()
        self._storage = storage
        self._stack_arn = Stack.of(self).stack_id
        self._max_cost_usd = max_cost_usd
        self._priced_types = sorted(prices)
        self.ledger = ledger or Ledger(self, "Ledger", removal_policy=removal_policy)
        self._ledger_table = self.ledger.table
        self.queue = Names.unique_id(self)
        self.ledger.serve(self, name=self.queue)
        self.node_log_group = logs.LogGroup(
            self, "NodeLogs", retention=logs.RetentionDays.ONE_MONTH, removal_policy=removal_policy
        )
        self.workflow_log_group = logs.LogGroup(
            self,
            "WorkflowLogs",
            # Step Functions adds each log group to the account's resource policy, which has at most 5,120 characters,
            # unless its name begins like this (Step Functions Developer Guide, "Avoiding Amazon CloudWatch Logs
            # resource policy size restrictions"). The stack's id makes the name differ from that of a retained group.
            log_group_name=f"/aws/vendedlogs/states/{self.queue}-{_stack_uuid(self)}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=removal_policy,
        )
        readable = (storage.data_bucket, *data_buckets)
        target = EngineTarget(
            image=image or TrainingImage.from_profile(),
            name=self.queue,
            ledger=self.ledger,
            node_log_group=self.node_log_group,
            storage=storage,
            lease_timeout=self.timeouts.lease_timeout,
            max_runtime=self.timeouts.max_runtime,
            start_timeout=self.timeouts.start_timeout,
            save_timeout=self.timeouts.save_timeout,
        )
        self.engine = engine.bind(self, target)
        self._engine_reads = self.engine.reads
        self._reads_by_resource = self.engine.reads_by_resource
        self.state_machine = workflow_machine(
            self,
            definition=run_definition(
                self,
                engine=self.engine,
                storage=storage,
                readable=readable,
                ledger=self.ledger,
                queue=self.queue,
                timeouts=self.timeouts,
                max_cost_usd=max_cost_usd,
                max_restarts=max_restarts,
                keep_checkpoints=keep_checkpoints,
                on_demand_prices=prices,
            ),
            timeout=self.timeouts.execution_timeout(
                forming=longest_forming(self.engine.fleets, timeouts=self.timeouts),
                engines=len(self.engine.names),
            ),
            log_group=self.workflow_log_group,
        )
        self.clean_up = CleanUp(
            self,
            "CleanUp",
            training=self.state_machine,
            engine=self.engine,
            bucket=storage.model_bucket,
            ledger=self.ledger,
            queue=self.queue,
            timeouts=self.timeouts,
            log_group=self.workflow_log_group,
        )
        self.reaper = Reaper(
            self,
            "Reaper",
            training=self.state_machine,
            clean_up=self.clean_up.state_machine,
            engine=self.engine,
            ledger=self.ledger,
            queue=self.queue,
            interval=reaper_interval or Duration.minutes(5),
            poll_interval=self.timeouts.poll_interval,
            log_group=self.workflow_log_group,
        )
        self._permit_the_workflow()
        for fleet in self.engine.fleets:
            permit_nodes(
                self,
                fleet=fleet,
                training=self.queue,
                machine=self.state_machine,
                ledger=self.ledger,
                storage=storage,
                data_buckets=data_buckets,
                log_group=self.node_log_group,
            )
        self._connection = CfnOutput(
            self, "Connection", description=contract.CONNECTION_DESCRIPTION, value=self._connection_json()
        )

    def metric_clean_up_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """Count clean-ups that failed, and events that could not start one. Default period: 5 minutes."""
        return self.clean_up.metric_failed(period=period)

    def metric_reaper_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """Count executions of the reaper that failed or did not start. Default period: three of its intervals."""
        return self.reaper.metric_failed(period=period)

    def metric_reaped(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count fleets that the reaper reclaimed from runs that had ended. Default period: 5 minutes."""
        return self.reaper.metric_reaped(period=period)

    def metric_capacity_without_lease(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Measure the capacity of fleets that no run held. Default period: 5 minutes."""
        return self.reaper.metric_capacity_without_lease(period=period)

    def _permit_the_workflow(self) -> None:
        # Every state has added the permission of its own call; these add the buckets' KMS key.
        for machine in (self.state_machine, self.clean_up.state_machine):
            self._storage.grant_write_receipts(machine, training=self.queue)
        self._storage.grant_check_models(self.state_machine, training=self.queue)
        for statement in self.engine.statements:
            self.state_machine.add_to_role_policy(statement)
            for resource in statement.resources:
                if resource.endswith("/*"):
                    acknowledge_objects(
                        self.state_machine,
                        owner=self,
                        arn=resource.removesuffix("/*"),
                        path="/*",
                        reason="A launch needs permissions for all of its resources. The statement for instances, "
                        "which every launch needs, has a condition that names the fleet's launch template. The id of "
                        "an ECS task is made up when it starts.",
                    )
        permit_workflow(self.state_machine, wildcards=self.engine.wildcards)
        permit_own_executions(self.state_machine)

    def _check_request(self, request: Mapping[str, Any] | str) -> None:
        if isinstance(request, str):
            return
        later = later_fields(request)
        problems = contract.check_request(
            {field: value for field, value in request.items() if field not in later},
            fleets=[fleet.size for fleet in self.engine.fleets],
            max_runtime_seconds=int(self.timeouts.max_runtime.to_seconds()),
            max_cost_usd=self._max_cost_usd,
            unknown=later,
        )
        if problems:
            raise ValueError(f"'request' would be refused: {'; '.join(problems)}")

    def _connection_json(self) -> str:
        ceiling = {} if self._max_cost_usd is None else {contract.CONNECTION_MAX_COST_USD: self._max_cost_usd}
        return Stack.of(self).to_json_string(
            {
                contract.CONNECTION_VERSION: contract.CONTRACT_VERSION,
                contract.CONNECTION_STATE_MACHINE: self.state_machine.state_machine_arn,
                contract.CONNECTION_DATA_BUCKET: self._storage.data_bucket.bucket_name,
                contract.CONNECTION_MODEL_BUCKET: self._storage.model_bucket.bucket_name,
                contract.CONNECTION_LEDGER_TABLE: self.ledger.table.table_name,
                contract.CONNECTION_QUEUE: self.queue,
                contract.CONNECTION_LOG_GROUP: self.node_log_group.log_group_name,
                contract.CONNECTION_PRICED_TYPES: self._priced_types,
                contract.CONNECTION_FLEETS: [
                    {
                        contract.CONNECTION_FLEET: fleet.id,
                        contract.CONNECTION_MAX_GPUS: fleet.size.max_gpus,
                        contract.CONNECTION_GPU_STEP: fleet.size.gpu_step,
                        contract.CONNECTION_ENGINE: fleet.in_receipt["engine"],
                        **({contract.CONNECTION_GROUP: fleet.auto_scaling_group} if fleet.auto_scaling_group else {}),
                        **{
                            name: value
                            for name, value in fleet.resources.items()
                            if name == contract.CONNECTION_JOB_PREFIX
                        },
                        **({} if fleet.size.elastic else {contract.CONNECTION_ELASTIC: False}),
                        contract.CONNECTION_TYPES: dict(fleet.types),
                    }
                    for fleet in self.engine.fleets
                ],
                contract.CONNECTION_MAX_RUNTIME_SECONDS: int(self.timeouts.max_runtime.to_seconds()),
                **ceiling,
            }
        )


def _stack_uuid(scope: Construct) -> str:
    """Return the UUID, unique to each stack, from the stack's ARN arn:…:stack/NAME/UUID; a CDK token."""
    return Fn.select(2, Fn.split("/", Stack.of(scope).stack_id))
