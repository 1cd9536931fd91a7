"""The construct that turns a fleet, buckets and an image into runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    same training, and read their requests and models (see docs/security.md). Teams that must not do that to each other
    get a training each.

    Creates: the run's state machine (no Lambda), the `CleanUp` and the `Reaper` behind it, its ledger unless one is
    given, two log groups (state machines, nodes), the nodes' permissions, and a stack output through which clients find
    all this.

    Args:
        storage: Buckets for scripts, data, models and receipts.
        image: What runs on every node.
        engine: What provides the nodes, for example `Engine.ec2(fleet)`.
        data_buckets: More buckets that runs may read data from. Default: only the storage's data bucket.
        ledger: A ledger that no other training uses. Default: a new one.
        max_restarts:
            How often a run that loses its leader, or a node that its ring cannot do without, starts again from its
            newest checkpoint, unless its request says otherwise; 0 to 20. Default: 3.
        max_cost_usd:
            Ceiling of what the instances of a run may cost, and its default. A run whose prices are unknown goes on
            under its time limit and says so. Default: no ceiling but the one that a request asks for.
        on_demand_prices:
            Instance type to USD an hour. Default: the Price List API is asked, which answers in us-east-1,
            eu-central-1 and ap-south-1; in other Regions a run's client asks for it and brings the prices along. With
            prices that are given here *max_cost_usd* holds against submitters, too. Spot prices are always looked up.
        timeouts: How long each part of a run may take. Default: those of `RunTimeouts`.
        keep_checkpoints: The newest so many of a run's checkpoints stay in S3. Default: 3.
        reaper_interval: Between two looks at every fleet; whole minutes. Default: 5 minutes.
        removal_policy: What becomes of ledger and log groups with the stack. Default: they are removed, because
            models and receipts are in the storage.

    Raises:
        TypeError: If *engine* is none: a fleet, for example.
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
        image: TrainingImage,
        engine: IEngine,
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
            # Step Functions adds each log group to the account's one resource policy of 5,120 characters, unless its
            # name begins like this (Step Functions Developer Guide, "Avoiding Amazon CloudWatch Logs resource policy
            # size restrictions"). The stack's own id is in it, for a group that was kept has the name of an older one.
            log_group_name=f"/aws/vendedlogs/states/{self.queue}-{_stack_uuid(self)}",
            retention=logs.RetentionDays.ONE_MONTH,
            removal_policy=removal_policy,
        )
        readable = (storage.data_bucket, *data_buckets)
        target = EngineTarget(
            image=image,
            name=self.queue,
            ledger=self.ledger,
            node_log_group=self.node_log_group,
            lease_timeout=self.timeouts.lease_timeout,
        )
        self.engine = engine.bind(self, target)
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
                forming=longest_forming(self.engine.fleets, timeouts=self.timeouts)
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
        """Count clean-ups that did not come to their end. Default period: 5 minutes."""
        return self.clean_up.metric_failed(period=period)

    def metric_reaper_failed(self, *, period: Duration | None = None) -> cloudwatch.MathExpression:
        """Count looks of the reaper that failed or did not happen. Default period: three of its intervals."""
        return self.reaper.metric_failed(period=period)

    def metric_reaped(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Count fleets that the reaper reclaimed from runs that had ended. Default period: 5 minutes."""
        return self.reaper.metric_reaped(period=period)

    def metric_capacity_without_lease(self, *, period: Duration | None = None) -> cloudwatch.Metric:
        """Measure capacity that no run held. Default period: 5 minutes."""
        return self.reaper.metric_capacity_without_lease(period=period)

    def _permit_the_workflow(self) -> None:
        # Every state brought the permission of its own call; these add the buckets' key.
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
                        reason="A launch needs the permission for all that it touches. Its instance's statement has "
                        "the condition that binds it to the fleet's launch template, and no launch is without one.",
                    )
        permit_workflow(self.state_machine)
        permit_own_executions(self.state_machine)

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
                        contract.CONNECTION_GROUP: fleet.group,
                        contract.CONNECTION_TYPES: dict(fleet.types),
                    }
                    for fleet in self.engine.fleets
                ],
                contract.CONNECTION_MAX_RUNTIME_SECONDS: int(self.timeouts.max_runtime.to_seconds()),
                **ceiling,
            }
        )


def _stack_uuid(scope: Construct) -> str:
    """Take the part that is another one for each stack ever made from arn:…:stack/NAME/UUID; a CDK token."""
    return Fn.select(2, Fn.split("/", Stack.of(scope).stack_id))
