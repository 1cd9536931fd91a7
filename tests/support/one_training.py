"""A training with everything that it needs, in a stack of a user's own."""

from __future__ import annotations

from aws_cdk import Stack

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingImage, TrainingNetwork, TrainingStorage

IMAGE = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")


def training_in(stack: Stack) -> HorovodTraining:
    """Add a training with everything that it needs to *stack*."""
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=network.subnets,
        boundary=network.boundary,
        instance_types=["g5.xlarge"],
        max_gpus=8,
        on_demand_base_gpus=1,
    )
    storage = TrainingStorage(stack, "Storage")
    return HorovodTraining(stack, "Training", storage=storage, image=IMAGE, engine=Engine.ec2(fleet))
