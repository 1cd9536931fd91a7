"""One synthesis of each engine's app for all tests that read its templates."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Stack

from cdk_horovod import Engine, GpuFleet, HorovodTraining, TrainingImage, TrainingNetwork, TrainingStorage
from cdk_horovod.asl.resolved import by_layer
from support.synthesis import REPOSITORY, synthesise

EXAMPLES = REPOSITORY / "examples"
APPS = {"ec2": REPOSITORY, "ecs": EXAMPLES / "ecs", "sagemaker": EXAMPLES / "sagemaker"}
"""Folder of the app that trains with an engine."""
GROUPS = ("ec2", "ecs")
"""Engines whose nodes are instances of Auto Scaling groups."""
STACKS = {"ec2": "Training", "ecs": "EcsTraining", "sagemaker": "SageMakerTraining"}
"""Stack of that app which has the training."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """
    Run a test with the mark `every_engine` once for each engine, one with `every_group` for those with Auto Scaling
    groups; any other one reads the app of EC2.
    """
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if "engine" in metafunc.fixturenames and marks & {"every_engine", "every_group"}:
        engines = GROUPS if "every_group" in marks else APPS
        metafunc.parametrize("engine", engines, indirect=True, scope="session")


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine whose app is read."""
    name: str = getattr(request, "param", "ec2")
    return name


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Synthesises the app of an engine, once in a session."""

    @cache
    def assembly(engine: str) -> Path:
        out = tmp_path_factory.mktemp("assembly") / "cdk.out"
        synthesise(out, app=APPS[engine])
        return out

    return assembly


@pytest.fixture(scope="session")
def assembly(engine: str, synthesised: Callable[[str], Path]) -> Path:
    return synthesised(engine)


@pytest.fixture(scope="session")
def training_stack(engine: str) -> str:
    """Name of the stack with the training."""
    return STACKS[engine]


@pytest.fixture(scope="session")
def templates(synthesised: Callable[[str], Path]) -> Callable[[str], Mapping[str, Any]]:
    """Reads the template of the training on an engine."""

    def read(engine: str) -> Mapping[str, Any]:
        text: Mapping[str, Any] = json.loads((synthesised(engine) / f"{STACKS[engine]}.template.json").read_text())
        return text

    return read


@pytest.fixture(scope="session")
def template(engine: str, templates: Callable[[str], Mapping[str, Any]]) -> Mapping[str, Any]:
    return templates(engine)


@pytest.fixture(scope="session")
def definition(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state machine of a run."""
    return by_layer(template)["run"]


@pytest.fixture(scope="session", params=["run", "clean-up", "reaper"])
def any_definition(template: Mapping[str, Any], request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Each state machine in turn."""
    return by_layer(template)[request.param]


@pytest.fixture(scope="session")
def three_engines(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The template of a training on three engines."""
    folder: Path = tmp_path_factory.mktemp("three")
    app = App(outdir=str(folder))
    stack = Stack(app, "Three")
    network = TrainingNetwork(stack, "Network", ecs=True)
    fleets = [
        GpuFleet(
            stack,
            name,
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            boundary=network.boundary,
            instance_types=["g5.xlarge"],
            max_gpus=2,
        )
        for name in ("Instances", "Tasks")
    ]
    HorovodTraining(
        stack,
        "Training",
        storage=TrainingStorage(stack, "Storage"),
        image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
        engine=Engine.first_available(
            Engine.ec2(fleets[0]),
            Engine.first_available(
                Engine.ecs(fleets[1]), Engine.sagemaker(instance_types=["ml.g5.xlarge"], max_gpus=2)
            ),
        ),
    )
    app.synth()
    found: Mapping[str, Any] = json.loads((folder / "Three.template.json").read_text())
    return found
