"""AWS CDK constructs that start, train and terminate a Horovod cluster on your own GPU fleet."""

from cdk_horovod.asl.steps import Steps
from cdk_horovod.deployed_training import IHorovodTraining
from cdk_horovod.engines import (
    Engine,
    EngineConfig,
    EngineTarget,
    FleetConfig,
    IEngine,
    IFleetStates,
    ProviderWords,
)
from cdk_horovod.fleet.capacity_plan import CapacityAttempt, CapacityPlan
from cdk_horovod.fleet.capacity_reservation import CapacityReservation
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.node_metrics import MetricOptions
from cdk_horovod.observability.alarms import TrainingAlarms
from cdk_horovod.observability.dashboard import TrainingDashboard
from cdk_horovod.observability.notifications import RunNotifications
from cdk_horovod.resources.image import NEWER_PROFILE, TORCH_PROFILE, TrainingImage, TrainingImageConfig
from cdk_horovod.resources.ledger import Ledger
from cdk_horovod.resources.network import NetworkMode, TrainingNetwork
from cdk_horovod.resources.network_boundary import NetworkBoundary
from cdk_horovod.resources.storage import ITrainingStorage, TrainingStorage
from cdk_horovod.run_task import RunTask
from cdk_horovod.training import HorovodTraining
from cdk_horovod.workflow.run_timeouts import RunTimeouts

__all__ = [
    "NEWER_PROFILE",
    "TORCH_PROFILE",
    "CapacityAttempt",
    "CapacityPlan",
    "CapacityReservation",
    "Engine",
    "EngineConfig",
    "EngineTarget",
    "FleetConfig",
    "GpuFleet",
    "HorovodTraining",
    "IEngine",
    "IFleetStates",
    "IHorovodTraining",
    "ITrainingStorage",
    "Ledger",
    "MetricOptions",
    "NetworkBoundary",
    "NetworkMode",
    "ProviderWords",
    "RunNotifications",
    "RunTask",
    "RunTimeouts",
    "Steps",
    "TrainingAlarms",
    "TrainingDashboard",
    "TrainingImage",
    "TrainingImageConfig",
    "TrainingNetwork",
    "TrainingStorage",
]
