"""What an engine is: the part of a run that differs between an EC2 fleet and anything else that provides nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.image import TrainingImage
from cdk_horovod.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """
    What `HorovodTraining` gives an engine to bind to.

    Args:
        image: The training image.
        ledger: Where nodes find their run.
        node_log_group: Where nodes write their logs.
    """

    image: TrainingImage
    ledger: Ledger
    node_log_group: logs.ILogGroup


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """
    States and facts that an engine contributes to the run's state machine.

    The states share the run's variables (`cdk_horovod.workflow.definition`): they read `$request.gpus` and `$ring`,
    and `confirm` sets `$running`. The workflow adds what they have in common: order, Catch, retries of the loop.

    Args:
        fleet_id: Name of the fleet in the ledger.
        max_gpus: GPUs that the engine can provide at once.
        gpu_step: GPUs come in multiples of this.
        leader_market: Market that the leader must come from, one of `contract.MARKETS`.
        node_role: Role of the nodes; the training's grants go to it.
        start: States that ask for nodes, in order. The first paid-for instance comes from the last of them.
        explain: State that turns missing nodes into an outcome that carries the provider's own words.
        protect: State that keeps the leader when the workers go, and sets `$protected`.
        release: State that ends every node but the leader, in a number of calls that does not grow with the nodes.
        unprotect: State that undoes *protect*.
        terminate: State that ends every node; repeating it is harmless.
        confirm: State that sets `$running` to the number of nodes left.
    """

    fleet_id: str
    max_gpus: int
    gpu_step: int
    leader_market: str
    node_role: iam.IRole
    start: tuple[sfn.TaskStateBase, ...]
    explain: sfn.TaskStateBase
    protect: sfn.TaskStateBase
    release: sfn.TaskStateBase
    unprotect: sfn.TaskStateBase
    terminate: sfn.TaskStateBase
    confirm: sfn.TaskStateBase


class IEngine(Protocol):
    """Provides the nodes of a run."""

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Create what the engine needs under *scope* and return its part of the workflow.

        Called once by each `HorovodTraining` that uses the engine.
        """
        ...
