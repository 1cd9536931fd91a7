"""Engines, which provide the nodes of a run: their protocol, and the EC2 engine."""

from cdk_horovod.engines.ec2_fleet import Ec2FleetEngine
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig, IEngine, IFleetStates
from cdk_horovod.engines.provider_words import ProviderWords
from cdk_horovod.fleet.gpu_fleet import GpuFleet

__all__ = [
    "Ec2FleetEngine",
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
