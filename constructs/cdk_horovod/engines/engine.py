"""What an engine is: the part of a run that differs between an EC2 fleet and anything else that provides nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from cdk_horovod.resources.image import TrainingImage
from cdk_horovod.resources.ledger import Ledger
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """
    What `HorovodTraining` gives an engine to bind to.

    Args:
        image: The training image.
        name: Of the training; plain text.
        ledger: Where nodes find their run.
        node_log_group: Where nodes write their logs.
        lease_timeout: How long a node stays without a valid lease.
    """

    image: TrainingImage
    name: str
    ledger: Ledger
    node_log_group: logs.ILogGroup
    lease_timeout: Duration


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """
    One fleet, as the workflow knows it.

    Args:
        id: Name of the fleet in the ledger.
        group: Name of what is scaled, for the engine's states.
        group_arn: ARN of it, for the permission of a node to take itself out.
        size: What it can hold.
        types: Its instance types, each with its GPUs.
        leader_market: Market that leaders come from, one of `contract.MARKETS`.
        node_role: Role of its nodes; the training's grants go to it.
        plan:
            What a run tries in it, in order: at least one attempt, as `workflow.capacity_search` describes it, with
            `time_limit` (seconds, or None for the training's `start_timeout`) in place of `seconds`.
        rest: What the engine's states read to restore it after a run.
    """

    id: str
    group: str
    group_arn: str
    size: contract.FleetSize
    types: Mapping[str, int]
    leader_market: str
    node_role: iam.IRole
    plan: tuple[Mapping[str, Any], ...]
    rest: Mapping[str, Any] = field(default_factory=dict)


class IFleetStates(Protocol):
    """
    Builds the states that act on the fleet in `$fleet`, for any state machine: a run's, the clean-up's, the reaper's.

    `$fleet` is an object with the keys `id` and `group`, in a run also `rest`. A run's states read `$run`, `$request`,
    `$ring`, `$lost_leader` and `$search` (see `workflow.capacity_search`), too. The workflow adds what they have in
    common: order, Catch, the loop until nothing runs.
    """

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> tuple[sfn.TaskStateBase, ...]:
        """Ask for nodes as `$search.attempt` says, in order; the first paid-for instance comes from the last."""
        ...

    def tag(self, scope: Construct) -> sfn.TaskStateBase:
        """Give all nodes that will start the tags of the run, in place of those of the run before."""
        ...

    def look(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> sfn.TaskStateBase:
        """Assign what *judged* makes of the expression of the GPUs that are there or being started."""
        ...

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> sfn.TaskStateBase:
        """Assign what *judged* makes of the expression of the provider's words on nodes that did not come."""
        ...

    def replace(self, scope: Construct) -> sfn.TaskStateBase:
        """End the node `$lost_leader`, whether it is still there or not; another one takes its place."""
        ...

    def restore(self, scope: Construct) -> sfn.TaskStateBase:
        """Make the empty fleet again what it was before attempts changed it."""
        ...

    def terminate(self, scope: Construct) -> sfn.TaskStateBase:
        """Let every node go; repeating it is harmless."""
        ...

    def look_for_launches(self, scope: Construct) -> sfn.TaskStateBase:
        """Set `$launching` to the number of launches whose nodes nobody can see yet."""
        ...

    def confirm(
        self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None
    ) -> sfn.TaskStateBase:
        """
        Set `$running` to what is there or wanted, 0 for nothing, and `$staying` to nodes that do not go by themselves.

        Args:
            judged: Gives what else to assign, from the expressions of `$running` and of what is wanted.
        """
        ...

    def end(self, scope: Construct) -> sfn.TaskStateBase | sfn.Map:
        """End the nodes in `$staying`."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """
    What an engine contributes to a training.

    Args:
        fleets: At least one; a run gets the first that is free and fits.
        states: What acts on them.
        statements: What a run's states need beside the permissions of their own calls.
    """

    fleets: tuple[FleetConfig, ...]
    states: IFleetStates
    statements: tuple[iam.PolicyStatement, ...] = ()

    @property
    def fleets_in_order(self) -> list[dict[str, Any]]:
        """The fleets as states read them, from `$fleets` and `$fleet`."""
        return [
            {
                "id": fleet.id,
                "group": fleet.group,
                "types": list(fleet.types),
                "leader_market": fleet.leader_market,
                "max_gpus": fleet.size.max_gpus,
                "gpu_step": fleet.size.gpu_step,
            }
            for fleet in self.fleets
        ]


class IEngine(Protocol):
    """Provides the nodes of a run."""

    def bind(self, scope: Construct, target: EngineTarget) -> EngineConfig:
        """
        Create what the engine needs under *scope* and return its part of the workflow.

        Called once by each `HorovodTraining` that uses the engine.
        """
        ...
