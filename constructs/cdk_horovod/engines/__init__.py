"""Where a run's nodes come from: one file an engine, and the protocol that they share."""

from cdk_horovod.engines.ec2_fleet import Ec2FleetEngine
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, FleetConfig, IEngine, IFleetStates
from cdk_horovod.fleet.gpu_fleet import GpuFleet

__all__ = ["Ec2FleetEngine", "Engine", "EngineConfig", "EngineTarget", "FleetConfig", "IEngine", "IFleetStates"]


class Engine:
    """The engines that this library brings; anything that implements `IEngine` may be given instead."""

    @staticmethod
    def ec2(*fleets: GpuFleet) -> IEngine:
        """Run nodes as instances of one of *fleets*: the first that is free and fits the run."""
        return Ec2FleetEngine(fleets=fleets)
