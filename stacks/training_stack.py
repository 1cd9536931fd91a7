"""The stack of network, fleet and workflow, which may be deleted and deployed again at any time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_cdk import Duration, Stack
from constructs import Construct

from cdk_horovod import (
    NEWER_PROFILE,
    TORCH_PROFILE,
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    ITrainingStorage,
    RunTimeouts,
    TrainingAlarms,
    TrainingDashboard,
    TrainingImage,
    TrainingNetwork,
)
from stacks.settings import Settings


class TrainingStack(Stack):
    """
    A network, a GPU fleet that rests at zero, a training with its state machines, their alarms, and a dashboard.

    Args:
        storage: Buckets of the training.
        settings: Settings of the app.
    """

    def __init__(
        self, scope: Construct, id: str, *, storage: ITrainingStorage, settings: Settings, **options: Any
    ) -> None:
        super().__init__(scope, id, **options)
        network = TrainingNetwork(
            self,
            "Network",
            mode=settings.network,
            max_azs=settings.max_azs,
            availability_zones=settings.availability_zones,
            endpoint_azs=settings.endpoint_azs,
            readable_accounts=settings.readable_accounts,
            gateway_prefix_lists=settings.gateway_prefix_lists,
            session_manager=settings.session_manager,
        )
        fleet = GpuFleet(
            self,
            "Fleet",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            boundary=network.boundary,
            session_manager=settings.session_manager,
            machine_image=settings.machine_image or None,
            volume_throughput=settings.volume_throughput,
            instance_types=settings.instance_types,
            max_gpus=settings.max_gpus,
            on_demand_base_gpus=settings.on_demand_base_gpus,
            capacity_plan=CapacityPlan.spot_first(
                any_zone=Duration.seconds(settings.spot_seconds),
                each_zone=Duration.seconds(settings.spot_zone_seconds),
            ),
        )
        self.training = HorovodTraining(
            self,
            "Training",
            storage=storage,
            image=_image(settings.image, profile=settings.image_profile),
            engine=Engine.ec2(fleet),
            timeouts=RunTimeouts(
                max_runtime=Duration.minutes(settings.max_runtime_minutes),
                heartbeat=Duration.seconds(settings.heartbeat_seconds),
                launch_timeout=Duration.seconds(settings.launch_seconds),
                start_timeout=Duration.seconds(settings.start_seconds),
                first_step_timeout=Duration.seconds(settings.first_step_seconds),
                stall_timeout=Duration.seconds(settings.stall_seconds),
                poll_interval=Duration.seconds(settings.poll_seconds),
                lease_timeout=Duration.seconds(settings.lease_seconds),
                queue_timeout=Duration.minutes(settings.queue_minutes),
            ),
            max_restarts=settings.max_restarts,
            reaper_interval=Duration.minutes(settings.reaper_minutes),
            max_cost_usd=settings.max_cost_usd,
            on_demand_prices=dict(settings.on_demand_prices),
        )
        self.alarms = TrainingAlarms(self, "Alarms", training=self.training)
        if settings.dashboard:
            self.dashboard = TrainingDashboard(self, "Dashboard", training=self.training)


def _image(image: str, *, profile: str) -> TrainingImage:
    profiles: dict[str, Mapping[str, str]] = {"default": {}, "newer": NEWER_PROFILE, "torch": TORCH_PROFILE}
    if profile not in profiles:
        raise ValueError(f"'horovod:image_profile' must be default, newer or torch, got {profile!r}")
    if not image:
        return TrainingImage.from_profile(profiles[profile])
    if ".dkr.ecr." in image:
        return TrainingImage.from_uri(image)
    return TrainingImage.from_asset(image, build_args=profiles[profile])
