"""One synthesis of `app.py` for all tests that read its templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cdk_horovod.asl.resolved import by_layer
from support.synthesis import synthesise


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assembly") / "cdk.out"
    synthesise(out)
    return out


@pytest.fixture(scope="session")
def template(assembly: Path) -> Mapping[str, Any]:
    text: Mapping[str, Any] = json.loads((assembly / "Training.template.json").read_text())
    return text


@pytest.fixture(scope="session")
def definition(template: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state machine of a run."""
    return by_layer(template)["run"]


@pytest.fixture(scope="session", params=["run", "clean-up", "reaper"])
def any_definition(template: Mapping[str, Any], request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """Each state machine in turn."""
    return by_layer(template)[request.param]
