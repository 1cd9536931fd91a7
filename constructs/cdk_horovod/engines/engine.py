"""The protocol of engines: the part of a run that depends on what provides the nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from cdk_horovod.resources.storage import ITrainingStorage
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
        storage: The training's buckets.
        lease_timeout: How long a node runs without a valid lease.
        max_runtime: Longest training of a run.
        start_timeout: How long a ring may take to form, unless an attempt of the plan has its own time.
        save_timeout: How long a run may take to save its model.
    """

    image: TrainingImage
    name: str
    ledger: Ledger
    node_log_group: logs.ILogGroup
    storage: ITrainingStorage
    lease_timeout: Duration
    max_runtime: Duration
    start_timeout: Duration
    save_timeout: Duration

    def node_environment(self, *, engine: str, fleet: str, image_uri: str) -> dict[str, str]:
        """
        Return the environment that a node needs on every engine.

        Args:
            engine: One of `contract.ENGINES`.
            fleet: Name of the node's fleet in the ledger; may be an expression.
            image_uri: URI of the image.
        """
        return {
            contract.ENV_ENGINE: engine,
            contract.ENV_LEDGER_TABLE: self.ledger.table.table_name,
            contract.ENV_FLEET: fleet,
            contract.ENV_TRAINING: self.name,
            contract.ENV_LOG_GROUP: self.node_log_group.log_group_name,
            contract.ENV_IMAGE: image_uri,
            contract.ENV_LEASE_SECONDS: str(int(self.lease_timeout.to_seconds())),
        }


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """
    One fleet, as the workflow uses it.

    Args:
        id: Name of the fleet in the ledger.
        group: Name of the group that the engine's states scale.
        size: The most GPUs of the fleet, the step in which it grows, and whether nodes may come and go.
        types: GPUs of its instance types, by the name of the type.
        engine: Name of what provides its nodes, such as "EC2", for people.
        words: How its provider's messages are read.
        node_role: Role of its training containers, which gets the training's grants.
        plan:
            The attempts that a run makes to get nodes, in order, at least one. `workflow.capacity_search` describes an
            attempt; here it has `time_limit` (seconds, or None for the training's `start_timeout`) instead of
            `seconds`, `first` and `patient`. An attempt with `node_gpus`, the GPUs of each of its nodes, is made
            only by runs whose GPUs are a multiple of it.
        rest: What the engine's states need to restore the group after a run.
        look_interval:
            How often a run looks at nodes of which none has joined yet. For a provider that gives up: what it refused
            does not come any more, so the next attempt follows at once. Default: only when the time for the first node
            is over, because an Auto Scaling group goes on trying.
        refusals: Errors of *start* that mean that there are no nodes now; their causes are read like the messages of
            *explain*. Any other error ends the run.
        node_statements: What *node_role* needs for the engine itself, such as to end its own node.
        auto_scaling_group: Name of the Auto Scaling group in which clients see nodes boot, before they have joined.
            Default: there is none.
        resources: Names or ARNs of further AWS resources in which people find its nodes, for the receipt. Default:
            there are none.
    """

    id: str
    group: str
    size: contract.FleetSize
    types: Mapping[str, int]
    engine: str
    words: ProviderWords
    node_role: iam.IRole
    plan: tuple[Mapping[str, Any], ...]
    rest: Mapping[str, Any] = field(default_factory=dict)
    look_interval: Duration | None = None
    refusals: tuple[str, ...] = ()
    node_statements: tuple[iam.PolicyStatement, ...] = ()
    auto_scaling_group: str = ""
    resources: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    @property
    def in_receipt(self) -> dict[str, Any]:
        """The fleet as a receipt tells it: its engine, and where its nodes were."""
        group = {"auto_scaling_group": self.auto_scaling_group} if self.auto_scaling_group else {}
        return {"fleet": self.id, "engine": self.engine.lower().split(" ")[0], **group, **self.resources}


class IFleetStates(Protocol):
    """
    Builds the states that act on the fleet in `$fleet`, for the state machines of run, clean-up and reaper.

    `$fleet` is an object with the keys `id`, `group` and `engine`, and in a run also `rest`. States of a run also read
    `$run`, `$request`, `$ring`, `$lost_leader`, `$times` and `$search` (see `workflow.capacity_search`). The workflow
    adds what all engines have in common: order, Catch, and the loop until nothing runs.

    Where several states are returned they follow each other in that order, and an assignment that is passed in belongs
    to the last one. Where a part may be empty, an engine that has nothing to do there returns `()`.
    """

    def start(self, scope: Construct, *, assign: Mapping[str, Any]) -> Steps:
        """Build the states that launch nodes for `$search.attempt`; only the last one may launch anything."""
        ...

    def tag(self, scope: Construct) -> Steps:
        """Build the states that set the tags of nodes to be launched to those of this run; may be empty."""
        ...

    def look(self, scope: Construct, *, judged: Callable[[str, str], Mapping[str, Any]]) -> Steps:
        """
        Build the states that see which nodes are there.

        Args:
            scope: Scope of the states.
            judged: Makes an `Assign` from two expressions: the GPUs that run or start, and whether nodes may still come
                that are not among them, such as a job in its provider's queue.
        """
        ...

    def explain(self, scope: Construct, *, judged: Callable[[str], Mapping[str, Any]]) -> Steps:
        """Build the states that read why launches failed; *judged* makes an `Assign` from the messages' expression."""
        ...

    def replace(self, scope: Construct) -> Steps:
        """
        Build the states that terminate the node `$lost_leader`, if it still runs; another one takes its place.

        In a fleet that is not elastic nobody uses them: a run's next attempt begins with an empty fleet there.
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

    def bill(self, scope: Construct) -> Steps:
        """
        Build the states that set `$bills` when nothing runs any more; empty if the ledger tells all that was billed.

        `$bills` is a list of objects with `job`, `instance_type`, `market`, `nodes` (their number), `seconds` and
        `billed_seconds` (of each node). Where it is not empty, it decides about the costs in the receipt.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """
    What an engine contributes to a training.

    Args:
        fleets: The fleets, at least one; a run gets the first one that is free and fits. A run that gets no nodes in
            its fleet goes on to those of another `FleetConfig.engine`, if there are any.
        states: Builds the states that act on the fleets.
        reads: Actions, on all resources, with which whoever watches runs sees nodes boot and what they cost.
        reads_by_resource: Further such actions, by the ARN of the resources.
        statements: Permissions that a run's states need in addition to those of their own calls.
        wildcards: ARNs with a wildcard in the permissions of the state machines, each with the reason why it is needed;
            cdk-nag's findings about them are accepted.
    """

    fleets: tuple[FleetConfig, ...]
    states: IFleetStates
    reads: tuple[str, ...] = ()
    reads_by_resource: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statements: tuple[iam.PolicyStatement, ...] = ()
    wildcards: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The different `FleetConfig.engine` of the fleets, in order."""
        return tuple(dict.fromkeys(fleet.engine for fleet in self.fleets))

    @property
    def fleets_in_order(self) -> list[dict[str, Any]]:
        """The fleets as states read them from `$fleets` and `$fleet`."""
        return [
            {
                "id": fleet.id,
                "group": fleet.group,
                "engine": fleet.engine,
                "in_receipt": fleet.in_receipt,
                "types": list(fleet.types),
                "max_gpus": fleet.size.max_gpus,
                "gpu_step": fleet.size.gpu_step,
                "elastic": fleet.size.elastic,
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
