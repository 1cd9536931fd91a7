"""Engines, which provide the nodes of a run: their protocol, and the engines for EC2 and ECS."""

from collections.abc import Sequence

from aws_cdk.aws_ecs import ICluster

from cdk_horovod.engines.ec2_fleet import Ec2FleetEngine
from cdk_horovod.engines.ecs_fleet import EcsEngine
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig, IEngine, IFleetStates
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.fleet.gpu_fleet import GpuFleet

__all__ = [
    "Ec2FleetEngine",
    "EcsEngine",
    "Engine",
    "EngineConfig",
    "EngineTarget",
    "FleetConfig",
    "IEngine",
    "IFleetStates",
    "ProviderWords",
]


class Engine:
    """The engines of this library. Any other implementation of `IEngine` can be used as well."""

    @staticmethod
    def ec2(*fleets: GpuFleet) -> IEngine:
        """Run nodes as instances of one of *fleets*: the first one that is free and fits the run."""
        return Ec2FleetEngine(fleets=fleets)

    @staticmethod
    def ecs(
        *fleets: GpuFleet,
        cluster: ICluster | None = None,
        placement_constraints: Sequence[str] = (),
        room: float = 0.1,
    ) -> EcsEngine:
        """
        Run nodes as tasks of Amazon ECS, on instances of one of *fleets*: the first one that is free and fits the run.

        Args:
            fleets: See `Engine.ec2`.
            cluster:
                A cluster that others use, too. Only task definitions and services are added to it; instances and tasks
                of others are not touched. Their daemon services run on the nodes as well, unless their owners give them
                the constraint `attribute:cdk-horovod.fleet !exists`; a script can get the credentials of every task on
                its node (docs/security.md).
                Default: a new cluster.
            placement_constraints:
                Expressions of the cluster query language that a node's instance must match, all of them, such as
                `attribute:ecs.instance-type =~ p3.*`. They are checked against the fleets' types.
                Default: none.
            room:
                Share of an instance's processors and memory that is left to tasks of others, such as daemons for logs,
                from 0 to 0.5. If theirs take more, a node never gets its own task. At least a tenth of the memory is
                left in any case, because the operating system has some.
                Default: 0.1.

        Raises:
            ValueError: If the fleets cannot run on ECS; the message names the argument and the value.
        """
        return EcsEngine(fleets=fleets, cluster=cluster, placement_constraints=placement_constraints, room=room)
