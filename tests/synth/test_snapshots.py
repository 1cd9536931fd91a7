"""Snapshots of what `app.py` and the examples deploy: their diff is what reviewers of a pull request read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.graph import document
from cdk_horovod.asl.resolved import by_layer, own_states
from support.snapshots import compare
from support.synthesis import REPOSITORY
from support.template_text import ELSEWHERE, HASH, template_text, user_data_text

pytestmark = pytest.mark.synth

LAYERS = ["run", "clean-up", "reaper"]
OTHER_ENGINES = ["ecs", "sagemaker"]


@pytest.mark.parametrize("stack", ["Storage", "Training"])
def test_template_is_as_reviewed(stack: str, assembly: Path, request: pytest.FixtureRequest) -> None:
    """The synthesised template is the reviewed one; `make snapshots` accepts a change."""
    compare(f"{stack.lower()}.yaml", template_text(assembly, stack), request)


def test_user_data_is_as_reviewed(assembly: Path, request: pytest.FixtureRequest) -> None:
    """The script that a node boots with is the reviewed one."""
    compare("user-data.sh", user_data_text(assembly, "Training"), request)


@pytest.mark.parametrize("engine", OTHER_ENGINES, indirect=True)
def test_template_on_another_engine_is_as_reviewed(
    engine: str, assembly: Path, training_stack: str, request: pytest.FixtureRequest
) -> None:
    """The template of a training on ECS, and of one on SageMaker, is the reviewed one."""
    compare(f"{engine}/training.yaml", template_text(assembly, training_stack), request)


@pytest.mark.parametrize("engine", ["ecs"], indirect=True)
def test_user_data_of_ecs_is_as_reviewed(assembly: Path, training_stack: str, request: pytest.FixtureRequest) -> None:
    """The script with which a container instance boots is the reviewed one."""
    compare("ecs/user-data.sh", user_data_text(assembly, training_stack), request)


@pytest.mark.parametrize("engine", OTHER_ENGINES)
def test_states_of_another_engine_are_as_reviewed(
    engine: str, templates: Callable[[str], Mapping[str, Any]], request: pytest.FixtureRequest
) -> None:
    """The states that a run has only on this engine, or that do something else there, are the reviewed ones."""
    own = own_states(by_layer(templates(engine))["run"], beside=by_layer(templates("ec2"))["run"])
    text = HASH.sub("<hash>", json.dumps(own, indent=2, ensure_ascii=False))
    compare(f"{engine}/states.asl.json", text + "\n", request)


def marked(value: Any, marks: Iterator[str]) -> Any:
    """Replace every literal in a resource's properties by a mark; references and joined text stay."""
    if isinstance(value, Mapping):
        if any(key == "Ref" or key.startswith("Fn::") for key in value):
            return value
        return {key: item if key in ELSEWHERE else marked(item, marks) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item, marks) for item in value]
    return next(marks)


@pytest.mark.parametrize("stack", ["Storage", "Training"])
def test_no_property_is_left_out(stack: str, assembly: Path, tmp_path: Path) -> None:
    """A change of any literal in any resource's properties changes the snapshot."""
    # GIVEN an assembly in which every such literal is another one
    copy = Path(shutil.copytree(assembly, tmp_path / "cdk.out"))
    template = json.loads((copy / f"{stack}.template.json").read_text())
    marks = [f"mark-{number}-" for number in range(10_000)]
    unused = iter(marks)
    for resource in template["Resources"].values():
        resource["Properties"] = marked(resource["Properties"], unused)
    used = marks[: marks.index(next(unused))]
    (copy / f"{stack}.template.json").write_text(json.dumps(template))

    # WHEN
    text = template_text(copy, stack)

    # THEN
    assert [mark for mark in used if mark not in text] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_state_machine_is_as_reviewed(layer: str, template: Mapping[str, Any], request: pytest.FixtureRequest) -> None:
    """Each state machine, as readable Amazon States Language, is the reviewed one."""
    text = json.dumps(by_layer(template)[layer], indent=2, ensure_ascii=False) + "\n"
    compare(f"{layer}.asl.json", text, request)


def test_drawings_are_of_these_state_machines(templates: Callable[[str], Mapping[str, Any]]) -> None:
    """The graphs in the documentation show today's states on every engine; `make graph` draws them anew."""
    drawings = document(templates("ec2"), {"ECS": templates("ecs"), "SageMaker": templates("sagemaker")})
    assert drawings == (REPOSITORY / "docs" / "state-machine.md").read_text()
