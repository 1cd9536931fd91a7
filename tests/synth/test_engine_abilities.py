"""What the client says of an engine is what the engine gives to the workflow."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_ec2 as ec2

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingImage, TrainingStorage
from horovod_client.engines import ENGINES
from horovod_client.engines.facts import EngineFacts

pytestmark = pytest.mark.synth

TYPES = ["g5.12xlarge", "g5.24xlarge"]


def engine_named(name: str, scope: Stack) -> Any:
    """Make an engine of the library with its defaults."""
    if name == "sagemaker":
        return Engine.sagemaker(instance_types=[f"ml.{kind}" for kind in TYPES], max_gpus=16)
    fleet = GpuFleet(scope, "Fleet", vpc=ec2.Vpc(scope, "Vpc"), instance_types=TYPES, max_gpus=16)
    return getattr(Engine, name)(fleet)


@pytest.mark.parametrize(
    "facts", [each for each in ENGINES if hasattr(Engine, each.name)], ids=lambda each: str(each.name)
)
def test_engine_can_what_the_client_says(facts: EngineFacts) -> None:
    """An engine's fleets are elastic, replace nodes, and have the types that its facts name, or not."""
    # GIVEN a training with the engine
    stack = Stack(App(), "Stack")
    training = HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=engine_named(facts.name, stack),
    )
    # WHEN
    bound = training.engine
    # THEN
    assert {fleet.in_receipt["engine"] for fleet in bound.fleets} == {facts.name}
    assert {fleet.size.elastic for fleet in bound.fleets} == {facts.elastic.can}
    assert bool(bound.states.replace(Stack(App(), "Other"))) == facts.replacement.can
    assert [sorted(fleet.types) for fleet in bound.fleets] == [[facts.type_name(kind) for kind in TYPES]]
    # Attempts for a part of a ring's types are made only where all nodes of a ring have one type.
    assert all("instance_type" not in attempt for attempt in bound.fleets[0].plan) == facts.mixed_types.can
