"""Where a run's nodes come from: one file an engine, and the protocol that they share."""

from cdk_horovod.engines.ec2_fleet import Ec2FleetEngine
from cdk_horovod.engines.engine import EngineConfig, EngineTarget, IEngine
from cdk_horovod.fleet import GpuFleet

__all__ = ["Ec2FleetEngine", "Engine", "EngineConfig", "EngineTarget", "IEngine"]


class Engine:
    """The engines that this library brings; anything that implements `IEngine` may be given instead."""

    @staticmethod
    def ec2(fleet: GpuFleet) -> IEngine:
        """Run nodes as instances of *fleet*."""
        return Ec2FleetEngine(fleet=fleet)
