"""The machine image of a fleet: a user's own, or the one that its engine chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aws_cdk import App, Stack

from cdk_horovod import Engine, GpuFleet, HorovodTraining, IEngine, TrainingImage, TrainingNetwork, TrainingStorage
from cdk_horovod.fleet.machine_image import DEEP_LEARNING_AMI

pytestmark = pytest.mark.synth

IMAGE = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")
ECS_GPU_AMI = "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"
"""ECS Developer Guide, "Retrieving Amazon ECS-optimized Linux AMI metadata"."""
OWN = "ami-0123456789abcdef0"


def images(engine: Callable[[GpuFleet], IEngine] | None, **options: Any) -> tuple[Any, list[str]]:
    """Give the image of a launch template, and the parameters from which CloudFormation reads images."""
    app = App()
    stack = Stack(app, "Stack")
    network = TrainingNetwork(stack, "Network")
    arguments: dict[str, Any] = {"instance_types": ["g5.xlarge"], "max_gpus": 8, **options}
    fleet = GpuFleet(stack, "Fleet", vpc=network.vpc, vpc_subnets=network.subnets, **arguments)
    if engine is not None:
        storage = TrainingStorage(stack, "Storage")
        HorovodTraining(stack, "Training", storage=storage, image=IMAGE, engine=engine(fleet))
    template = app.synth().get_stack_by_name("Stack").template
    (launched,) = (
        resource["Properties"]["LaunchTemplateData"]["ImageId"]
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::EC2::LaunchTemplate"
    )
    parameters = {
        name: parameter["Default"]
        for name, parameter in template["Parameters"].items()
        if parameter["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    }
    return parameters.get(launched["Ref"]) if isinstance(launched, dict) else launched, list(parameters.values())


@pytest.mark.parametrize(
    ("engine", "expected"), [(Engine.ec2, DEEP_LEARNING_AMI), (Engine.ecs, ECS_GPU_AMI), (None, DEEP_LEARNING_AMI)]
)
def test_engine_chooses_the_image(engine: Callable[[GpuFleet], IEngine] | None, expected: str) -> None:
    """A fleet without an image of its own gets the newest one of its engine, and no parameter of another is left."""
    assert images(engine) == (expected, [expected])


@pytest.mark.parametrize("engine", [Engine.ec2, Engine.ecs])
def test_image_of_the_user_stays(engine: Callable[[GpuFleet], IEngine]) -> None:
    """No engine replaces an image that was given, and CloudFormation reads none."""
    assert images(engine, machine_image=OWN) == (OWN, [])


def test_p3_needs_an_image_with_its_driver() -> None:
    """On EC2 the newest image has no driver for P3; the one of ECS has, and a user's own may have."""
    p3 = {"instance_types": ["p3.16xlarge"]}
    with pytest.raises(ValueError, match="machine_image") as refused:
        images(Engine.ec2, **p3)
    assert str(refused.value) == (
        "'machine_image' must be given for p3.16xlarge, because current Deep Learning AMIs have no driver for its GPUs"
    )
    assert images(Engine.ec2, machine_image=OWN, **p3) == (OWN, [])
    assert images(Engine.ecs, **p3) == (ECS_GPU_AMI, [ECS_GPU_AMI])
