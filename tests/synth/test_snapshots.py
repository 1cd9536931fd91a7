"""What a pull request does to the deployed resources shows as a diff of these files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.graph import drawn
from cdk_horovod.asl.resolved import by_layer
from support.synthesis import REPOSITORY

pytestmark = pytest.mark.synth

SNAPSHOTS = REPOSITORY / "tests" / "snapshots"


def scrubbed(value: Any) -> Any:
    """
    Replace what changes without meaning: hashes of assets, the state machines' text (they have files of their own).

    Everything that a reviewer must see stays.
    """
    if isinstance(value, Mapping):
        return {key: "see *.asl.json" if key == "DefinitionString" else scrubbed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"\b[0-9a-f]{64}\b", "<hash>", value)
    return value


LAYERS = ["run", "clean-up", "reaper"]


@pytest.mark.parametrize("stack", ["Storage", "Training"])
def test_template_is_as_reviewed(stack: str, assembly: Path, request: pytest.FixtureRequest) -> None:
    """The synthesised template is the reviewed one; `make snapshots` accepts a change."""
    template = json.loads((assembly / f"{stack}.template.json").read_text())
    compare(f"{stack.lower()}.template.json", scrubbed(template), request)


@pytest.mark.parametrize("layer", LAYERS)
def test_state_machine_is_as_reviewed(layer: str, template: Mapping[str, Any], request: pytest.FixtureRequest) -> None:
    """Each state machine, as readable Amazon States Language, is the reviewed one."""
    compare(f"{layer}.asl.json", by_layer(template)[layer], request)


@pytest.mark.parametrize("layer", LAYERS)
def test_drawing_is_of_this_state_machine(layer: str, template: Mapping[str, Any]) -> None:
    """The graph in the documentation shows today's states; `make graph` draws it anew."""
    assert drawn(by_layer(template)[layer]) in (REPOSITORY / "docs" / "state-machine.md").read_text()


def compare(name: str, value: Any, request: pytest.FixtureRequest) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if request.config.getoption("--update-snapshots"):
        (SNAPSHOTS / name).write_text(text)
    assert text == (SNAPSHOTS / name).read_text(), f"{name} changed: review it, then run `make snapshots`"
