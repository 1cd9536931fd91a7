"""Snapshots of what `app.py` and `examples/ecs` deploy: their diff is what reviewers of a pull request read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.graph import drawn
from cdk_horovod.asl.resolved import by_layer
from support.snapshots import compare
from support.synthesis import REPOSITORY
from support.template_text import ELSEWHERE, template_text, user_data_text

pytestmark = pytest.mark.synth

LAYERS = ["run", "clean-up", "reaper"]


@pytest.mark.parametrize("stack", ["Storage", "Training"])
def test_template_is_as_reviewed(stack: str, assembly: Path, request: pytest.FixtureRequest) -> None:
    """The synthesised template is the reviewed one; `make snapshots` accepts a change."""
    compare(f"{stack.lower()}.yaml", template_text(assembly, stack), request)


def test_user_data_is_as_reviewed(assembly: Path, request: pytest.FixtureRequest) -> None:
    """The script that a node boots with is the reviewed one."""
    compare("user-data.sh", user_data_text(assembly, "Training"), request)


@pytest.mark.parametrize("engine", ["ecs"], indirect=True)
def test_template_of_ecs_is_as_reviewed(assembly: Path, training_stack: str, request: pytest.FixtureRequest) -> None:
    """The template of the training on ECS is the reviewed one."""
    compare("ecs/training.yaml", template_text(assembly, training_stack), request)


@pytest.mark.parametrize("engine", ["ecs"], indirect=True)
def test_user_data_of_ecs_is_as_reviewed(assembly: Path, training_stack: str, request: pytest.FixtureRequest) -> None:
    """The script with which a container instance boots is the reviewed one."""
    compare("ecs/user-data.sh", user_data_text(assembly, training_stack), request)


@pytest.mark.parametrize("engine", ["ecs"], indirect=True)
def test_states_of_ecs_are_as_reviewed(
    template: Mapping[str, Any], synthesised: Callable[[str], Path], request: pytest.FixtureRequest
) -> None:
    """The states that a run has only on ECS are the reviewed ones."""
    # GIVEN
    others = by_layer(json.loads((synthesised("ec2") / "Training.template.json").read_text()))["run"]["States"]
    # WHEN
    own = {name: state for name, state in by_layer(template)["run"]["States"].items() if name not in others}
    # THEN
    compare("ecs/states.asl.json", json.dumps(own, indent=2, ensure_ascii=False) + "\n", request)


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


@pytest.mark.parametrize("layer", LAYERS)
def test_drawing_is_of_this_state_machine(layer: str, template: Mapping[str, Any]) -> None:
    """The graph in the documentation shows today's states; `make graph` draws it anew."""
    assert drawn(by_layer(template)[layer]) in (REPOSITORY / "docs" / "state-machine.md").read_text()
