"""The README's stack, commands and names work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.synthesis import REPOSITORY

pytestmark = pytest.mark.synth

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """List the README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_stack_of_the_readme_synthesises(tmp_path: Path) -> None:
    """The README's first stack becomes a template."""
    # GIVEN the README's stack, in a folder of its own
    (code,) = [block for block in blocks("python") if "HorovodTraining" in block]
    # WHEN
    done = subprocess.run(
        [sys.executable, "-c", code.replace("cdk.App()", "cdk.App(outdir='cdk.out')")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # THEN
    assert done.returncode == 0, done.stdout
    assert "AWS::StepFunctions::StateMachine" in (tmp_path / "cdk.out" / "Training.template.json").read_text()


def test_stack_of_the_readme_is_ten_lines() -> None:
    """The README's first stack has at most ten lines, imports aside."""
    (code,) = [block for block in blocks("python") if "HorovodTraining" in block]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_commands_of_the_readme_exist() -> None:
    """Every `make` target, file and setting that the README names exists."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / link).exists(), link
    settings = (REPOSITORY / "stacks" / "settings.py").read_text()
    for name in re.findall(r"-c horovod:(\w+)=", README):
        assert f"    {name}: " in settings, name
