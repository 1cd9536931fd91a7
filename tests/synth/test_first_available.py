"""Two engines for one training: the same proofs as for one, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack

from cdk_horovod import Engine, GpuFleet, HorovodTraining, IEngine, TrainingImage, TrainingNetwork, TrainingStorage
from cdk_horovod.asl.resolved import by_layer
from support import asl

pytestmark = pytest.mark.synth

LEASE_LOST = "DynamoDb.ConditionalCheckFailedException"
STARTS = ("EC2: Start nodes", "ECS: Start nodes", "SageMaker: Start nodes")
CONFIRMS = frozenset(f"{engine}: Confirm that nothing runs" for engine in ("EC2", "ECS", "SageMaker"))


def on_sagemaker() -> IEngine:
    return Engine.sagemaker(instance_types=["ml.g5.xlarge"], max_gpus=2)


@pytest.mark.parametrize("start", STARTS)
def test_every_way_from_any_start_ends_empty(three_engines: Mapping[str, Any], start: str) -> None:
    """No way from the start of nodes of any engine leads past the look that sees none."""
    # GIVEN a run that keeps its lease
    states: dict[str, asl.State] = {
        name: {**state, "Catch": [catch for catch in state.get("Catch", ()) if catch["ErrorEquals"] != [LEASE_LOST]]}
        for name, state in by_layer(three_engines)["run"]["States"].items()
    }
    # WHEN the choice of nobody, which no fleet takes, is left out
    for name, state in states.items():
        if name.startswith("Who "):
            states[name] = {key: value for key, value in state.items() if key != "Default"}
    past = asl.reachable(states, start=start, avoiding=CONFIRMS)
    # THEN
    assert not {name for name in past if states[name]["Type"] in asl.TERMINAL}


def test_every_machine_reads_what_is_assigned(three_engines: Mapping[str, Any]) -> None:
    """No state reads a variable that is not set on every way to it, whichever engine has the fleet."""
    for layer, definition in by_layer(three_engines).items():
        states: Mapping[str, asl.State] = definition["States"]
        known = asl.assigned_before(states, start=definition["StartAt"])
        for name, state in states.items():
            if not name.startswith(("EC2: ", "ECS: ", "SageMaker: ")):
                assert asl.variables_read({**state, "ItemProcessor": {}}) - known[name] <= {
                    # Of the engine that has the fleet; the choice before sends no other one here.
                    "running",
                    "staying",
                }, (layer, name)


def test_two_engines_of_a_kind_have_names_of_their_own(tmp_path: Path) -> None:
    """The second of two engines on EC2 has a number in the names of its states and fleets."""
    app = App(outdir=str(tmp_path))
    stack = Stack(app, "Two")
    network = TrainingNetwork(stack, "Network")
    engines = [
        Engine.ec2(
            GpuFleet(
                stack,
                name,
                vpc=network.vpc,
                vpc_subnets=network.subnets,
                boundary=network.boundary,
                instance_types=[kind],
                max_gpus=2,
            )
        )
        for name, kind in {"Best": "g5.xlarge", "Other": "g4dn.xlarge"}.items()
    ]
    training = HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=Engine.first_available(*engines),
    )
    assert training.engine.names == ("EC2", "EC2 2")


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        (0, "^'engines' must be from 2 to 3 engines, got 0$"),
        (1, "^'engines' must be from 2 to 3 engines, got 1$"),
        (4, "^'engines' must be from 2 to 3 engines, got 4$"),
        (-2, "^'engines' must be different ones, got one of them twice$"),
    ],
)
def test_other_numbers_of_engines_are_refused(engines: int, words: str) -> None:
    """One engine needs no choice, and four leave the queue no time."""
    given = [on_sagemaker()] * 2 if engines < 0 else [on_sagemaker() for _ in range(engines)]
    with pytest.raises(ValueError, match=words):
        Engine.first_available(*given)


def test_two_engines_with_the_same_fleets_are_refused() -> None:
    """Two engines on SageMaker would have fleets of the same name; one takes all types."""
    stack = Stack(App(), "Same")
    with pytest.raises(
        ValueError, match=r"^'engines' must have fleets of different names, got sagemaker-1 twice; give"
    ):
        HorovodTraining(
            stack,
            "Training",
            storage=TrainingStorage(stack, "Storage"),
            image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
            engine=Engine.first_available(on_sagemaker(), on_sagemaker()),
        )
