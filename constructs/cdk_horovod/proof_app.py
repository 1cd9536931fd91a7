"""
The CDK app of the drill `cdk-horovod prove`: `python -m cdk_horovod.proof_app SETTINGS`.

SETTINGS is `ProofSettings` as a JSON object. The cloud assembly is written to the CDK CLI's output folder, or to
`cdk.out`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import aws_cdk as cdk
from aws_cdk import Duration

from cdk_horovod.engines import Engine, IEngine
from cdk_horovod.fleet.capacity_plan import CapacityAttempt, CapacityPlan
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.resources.image import TrainingImage
from cdk_horovod.resources.network import NetworkMode, TrainingNetwork
from cdk_horovod.resources.storage import TrainingStorage
from cdk_horovod.training import HorovodTraining
from cdk_horovod.workflow.run_timeouts import RunTimeouts
from horovod_node import contract


@dataclass(frozen=True, kw_only=True)
class ProofSettings:
    """
    Settings of the drill's stack.

    Args:
        stack: Name of the stack.
        engine: Engine of the drill: `ec2`, `ecs` or `sagemaker`.
        instance_type: Instance type, with one GPU.
        image: Folder with the Dockerfile, or the URI of an image in ECR; empty for the library's own.
        usd_per_hour: On-Demand price of an instance, in USD an hour.
        max_cost_usd: Cost ceiling of a run, in USD.
        heartbeat: Seconds without a heartbeat after which the leader counts as lost.
        lease: Seconds that a node runs without a valid lease.
        reaper_minutes: Minutes between two runs of the reaper.
        start: Seconds in which the ring must form.
        poll: Seconds between two polls of terminating nodes.
    """

    stack: str
    engine: str
    instance_type: str
    image: str
    usd_per_hour: float
    max_cost_usd: float
    heartbeat: int
    lease: int
    reaper_minutes: int
    start: int
    poll: int


def build(app: cdk.App, settings: ProofSettings) -> None:
    """
    Add the drill's stack to *app*: two GPUs, public subnets or none, which cost nothing at rest, and buckets that are
    retained.

    Args:
        app: The app.
        settings: See `ProofSettings`.
    """
    stack = cdk.Stack(
        app,
        settings.stack,
        description="cdk-horovod prove: may be deleted at any time",
        tags={"cdk-horovod:proof": settings.stack},
    )
    image = settings.image
    own = TrainingImage.from_asset(image) if image else TrainingImage.from_profile()
    HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri(image) if ".dkr.ecr." in image else own,
        engine=_engine(stack, settings),
        max_cost_usd=settings.max_cost_usd,
        on_demand_prices={settings.instance_type: settings.usd_per_hour},
        # Short limits, so that a run that hangs ends soon and a forgotten drill costs little.
        timeouts=RunTimeouts(
            max_runtime=Duration.hours(1),
            queue_timeout=Duration.hours(1),
            heartbeat=Duration.seconds(settings.heartbeat),
            lease_timeout=Duration.seconds(settings.lease),
            launch_timeout=Duration.seconds(settings.start // 2),
            start_timeout=Duration.seconds(settings.start),
            first_step_timeout=Duration.seconds(settings.start),
            stall_timeout=Duration.seconds(settings.start // 2),
            save_timeout=Duration.minutes(20),
            poll_interval=Duration.seconds(settings.poll),
        ),
        reaper_interval=Duration.minutes(settings.reaper_minutes),
    )


def _engine(stack: cdk.Stack, settings: ProofSettings) -> IEngine:
    """Make the engine, with what it needs: two GPUs, Spot first."""
    if settings.engine == contract.ENGINE_SAGEMAKER:
        return Engine.sagemaker(
            instance_types=[settings.instance_type],
            max_gpus=2,
            capacity_plan=CapacityPlan.attempts(
                [
                    CapacityAttempt(market=contract.SPOT, time_limit=Duration.seconds(settings.start // 4)),
                    CapacityAttempt(market=contract.ON_DEMAND),
                ]
            ),
        )
    network = TrainingNetwork(stack, "Network", mode=NetworkMode.PUBLIC)
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        instance_types=[settings.instance_type],
        max_gpus=2,
        on_demand_base_gpus=1,
        capacity_plan=CapacityPlan.spot_first(
            any_zone=Duration.seconds(settings.start // 4), each_zone=Duration.seconds(settings.start // 8)
        ),
    )
    return Engine.ecs(fleet) if settings.engine == contract.ENGINE_ECS else Engine.ec2(fleet)


def main() -> None:
    """Synthesise the app."""
    values: dict[str, Any] = json.loads(sys.argv[1])
    app = cdk.App()
    build(app, ProofSettings(**values))
    app.synth()


if __name__ == "__main__":
    main()
