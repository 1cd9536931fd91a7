"""
The app that `cdk-horovod local up` deploys for users without an app.

    python -m horovod_local.command_line.sample_app cdk.out

Everything is in one stack, `Training`. Its instances have one GPU, and so one rank, which a laptop can carry.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import aws_cdk as cdk
from aws_cdk import Duration

from cdk_horovod import (
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    RunTimeouts,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from horovod_local.cloud import DEFAULT_REGION
from horovod_local.server import DEFAULT_ACCOUNT
from horovod_local.shared.price_list import ON_DEMAND_USD

STACK: Final = "Training"
INSTANCE_TYPE: Final = "g5.xlarge"
GPUS: Final = 8
# Never pulled: nodes are processes here, with the packages of their interpreter.
_IMAGE: Final = f"{DEFAULT_ACCOUNT}.dkr.ecr.{DEFAULT_REGION}.amazonaws.com/training:local"


def synthesise(out: Path) -> None:
    """
    Write the app's cloud assembly.

    Args:
        out: Folder of the cloud assembly.
    """
    app = cdk.App(outdir=str(out))
    stack = cdk.Stack(app, STACK)
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        boundary=network.boundary,
        instance_types=[INSTANCE_TYPE],
        max_gpus=GPUS,
        on_demand_base_gpus=1,
        capacity_plan=CapacityPlan.spot_first(any_zone=Duration.seconds(60), each_zone=Duration.seconds(30)),
    )
    # Instances boot in a second here, so these timeouts are shorter than on AWS.
    HorovodTraining(
        stack,
        "Horovod",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri(_IMAGE),
        engine=Engine.ec2(fleet),
        timeouts=RunTimeouts(
            heartbeat=Duration.seconds(30),
            launch_timeout=Duration.minutes(2),
            start_timeout=Duration.minutes(5),
            first_step_timeout=Duration.minutes(5),
            stall_timeout=Duration.minutes(5),
            poll_interval=Duration.seconds(1),
            queue_timeout=Duration.hours(12),
        ),
        on_demand_prices={INSTANCE_TYPE: ON_DEMAND_USD[INSTANCE_TYPE]},
    )
    app.synth()


if __name__ == "__main__":
    synthesise(Path(sys.argv[1]))
