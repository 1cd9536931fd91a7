"""Every example is an app that deploys, and does what its README says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from support.example_text import example_text
from support.snapshots import compare
from support.synthesis import REPOSITORY, synthesise

pytestmark = pytest.mark.synth

EXAMPLES = sorted(path.parent.name for path in (REPOSITORY / "examples").glob("*/app.py"))
LONGEST = 110
"""Lines of an app, which people shall paste."""


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_synthesises_as_reviewed(example: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """What an example deploys is what was reviewed; cdk-nag finds nothing in it, or the synthesis would fail."""
    # WHEN
    said = synthesise(tmp_path, app=REPOSITORY / "examples" / example)

    # THEN it has nothing to warn of
    assert said == ""
    compare(f"examples/{example}.yaml", example_text(tmp_path), request)


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_is_short_and_has_a_readme(example: str) -> None:
    """An example is short enough to paste, has a README with its commands, and the list of examples names it."""
    # GIVEN
    folder = REPOSITORY / "examples" / example

    # THEN
    assert len((folder / "app.py").read_text().splitlines()) <= LONGEST
    assert "cdk deploy" in (folder / "README.md").read_text()
    assert json.loads((folder / "cdk.json").read_text())["app"] == "python app.py"
    assert f"({example}/README.md)" in (REPOSITORY / "examples" / "README.md").read_text()


@pytest.mark.parametrize("example", EXAMPLES)
def test_links_and_settings_of_a_readme_exist(example: str) -> None:
    """Files that an example's README links to exist, and so do the settings that it sets."""
    # GIVEN
    folder = REPOSITORY / "examples" / example
    readme = (folder / "README.md").read_text()

    # WHEN
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme)
    settings = re.findall(r"-c (\w+)=", readme)

    # THEN
    assert [link for link in links if not (folder / link).exists()] == []
    code = (folder / "app.py").read_text()
    assert [name for name in settings if f'"{name}"' not in code] == []


def test_there_are_ten_examples() -> None:
    """Each way of using the constructs has its example."""
    assert len(EXAMPLES) >= 10


@pytest.mark.slow
def test_the_template_has_what_its_readme_names(tmp_path: Path) -> None:
    """Parameters and outputs that other languages use are in the product's template, which has no assets."""
    # GIVEN
    readme = (REPOSITORY / "examples" / "template" / "README.md").read_text()

    # WHEN
    synthesise(tmp_path, app=REPOSITORY / "examples" / "template")
    (path,) = tmp_path.glob("*.product.template.json")
    template: dict[str, Any] = json.loads(path.read_text())

    # THEN
    inputs = re.findall(r"^ +(\w+): '", readme, re.MULTILINE)
    outputs = re.findall(r"Outputs\.(\w+)", readme)
    assert inputs
    assert outputs
    assert set(inputs) <= template["Parameters"].keys()
    assert set(outputs) <= template["Outputs"].keys()
    # AND it fits CloudFormation's limit for a template in S3, 1 MB
    assert path.stat().st_size < 1_000_000
    assert "cdk-hnb659fds" not in path.read_text()
