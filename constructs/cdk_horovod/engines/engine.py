"""The protocol of engines: the part of a run that depends on what provides the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from cdk_horovod.asl.steps import Steps
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.resources.image import TrainingImage
from cdk_horovod.resources.ledger import Ledger
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class EngineTarget:
    """
    What `HorovodTraining` passes to `IEngine.bind`.

    Args:
        image: The training image.
        name: Name of the training; plain text, without CDK tokens.
        ledger: Ledger in which nodes find their run.
        node_log_group: Log group of the nodes.
        lease_timeout: How long a node runs without a valid lease.
    """

    image: TrainingImage
    name: str
    ledger: Ledger
    node_log_group: logs.ILogGroup
    lease_timeout: Duration


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """
    One fleet, as the workflow uses it.

    Args:
        id: Name of the fleet in the ledger.
        group: Name of the group that the engine's states scale.
        size: The most GPUs of the fleet, and the step in which it grows.
        types: GPUs of its instance types, by the name of the type.
        leader_market: Market of leaders, one of `contract.MARKETS`.
        node_role: Role of its training containers, which gets the training's grants.
        plan:
            The attempts that a run makes to get nodes, in order, at least one. `workflow.capacity_search` describes an
            attempt; here it has `time_limit` (seconds, or None for the training's `start_timeout`) instead of
            `seconds`.
        rest: What the engine's states need to restore the group after a run.
        node_statements: What *node_role* needs for the engine itself, such as to end its own node.
        auto_scaling_group: Name of the Auto Scaling group in which clients see nodes boot, before they have joined.
            Default: there is none.
    """

    id: str
    group: str
    size: contract.FleetSize
    types: Mapping[str, int]
    leader_market: str
    node_role: iam.IRole
    plan: tuple[Mapping[str, Any], ...]
    rest: Mapping[str, Any] = field(default_factory=dict)
    node_statements: tuple[iam.PolicyStatement, ...] = ()
    auto_scaling_group: str = ""


class IFleetStates(Protocol):
    """
    Builds the states that act on the fleet in `$fleet`, for the state machines of run, clean-up and reaper.

    `$fleet` is an object with the keys `id` and `group`, and in a run also `rest`. States of a run also read `$run`,
    `$request`, `$ring`, `$lost_leader`, `$times` and `$search` (see `workflow.capacity_search`). The workflow adds what
    all engines have in common: order, Catch, and the loop until nothing runs.

    Where several states are returned they follow each other in that order, and an assignment that is passed in belongs
    to the last one. Where a part may be empty, an engine that has nothing to do there returns `()`.
    """

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        """Build the states that launch nodes for `$search.attempt`; only the last one may launch anything."""
        ...

    def tag(self, scope: Construct) -> Steps:
        """Build the states that set the tags of nodes to be launched to those of this run; may be empty."""
        ...

    def look(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        """Build the states that count GPUs that run or start; *judged* makes an `Assign` from their expression."""
        ...

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        """Build the states that read why launches failed; *judged* makes an `Assign` from the messages' expression."""
        ...

    def replace(self, scope: Construct) -> Steps:
        """
        Build the states that terminate the node `$lost_leader`, if it still runs; another one takes its place.

        Empty if nodes cannot be replaced one by one: a run's next attempt then begins with an empty fleet.
        """
        ...

    def restore(self, scope: Construct) -> Steps:
        """Build the states that undo the attempts' changes of the empty fleet; may be empty."""
        ...

    def terminate(self, scope: Construct) -> Steps:
        """Build the states that terminate every node; they are idempotent."""
        ...

    def confirm(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]] | None = None) -> Steps:
        """
        Build the states that set `$running` and `$staying`.

        `$running` is the largest of what runs, what is desired, and what is being launched; 0 for nothing. `$staying`
        lists nodes that *terminate* does not end.

        Args:
            judged: Makes further assignments from two expressions: that of `$running`, and that of what is desired.
        """
        ...

    def end(self, scope: Construct) -> Steps:
        """Build the states that terminate the nodes in `$staying`; empty if *terminate* ends every node."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """
    What an engine contributes to a training.

    Args:
        fleets: The fleets, at least one; a run gets the first one that is free and fits.
        states: Builds the states that act on the fleets.
        words: How the messages of *explain* are read.
        reads: Actions, on all resources, with which whoever watches runs sees nodes boot and what they cost.
        statements: Permissions that a run's states need in addition to those of their own calls.
    """

    fleets: tuple[FleetConfig, ...]
    states: IFleetStates
    words: ProviderWords
    reads: tuple[str, ...] = ()
    statements: tuple[iam.PolicyStatement, ...] = ()

    @property
    def fleets_in_order(self) -> list[dict[str, Any]]:
        """The fleets as states read them from `$fleets` and `$fleet`."""
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
        Create the engine's resources under *scope*, and return its part of the workflow.

        Each `HorovodTraining` that uses the engine calls this once.
        """
        ...
