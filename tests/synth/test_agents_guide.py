"""AGENTS.md is short and true: its code synthesises, and the names in it exist."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cdk_horovod
import horovod_client
from support.synthesis import REPOSITORY

pytestmark = pytest.mark.synth

GUIDE = (REPOSITORY / "AGENTS.md").read_text()
LONGEST = 100
"""Lines. A tool reads the file before each of its tasks."""


def test_code_of_the_guide_synthesises(tmp_path: Path) -> None:
    """The guide's blocks, one after the other, are an app whose template has what they add."""
    # GIVEN
    blocks = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / "app.py").write_text("".join(blocks).replace("cdk.App()", "cdk.App(outdir='cdk.out')"))

    # WHEN
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    # THEN
    assert (done.returncode, done.stdout) == (0, "")
    template = (tmp_path / "cdk.out" / "Training.template.json").read_text()
    assert "startExecution.sync:2" in template
    assert template.count('"AWS::StepFunctions::StateMachine"') == 4


def test_guide_is_short() -> None:
    """The guide is short enough to be read each time."""
    assert len(GUIDE.splitlines()) <= LONGEST


def test_names_of_the_guide_exist() -> None:
    """Classes, methods and constants that the guide's rules name are in the public API."""
    # GIVEN
    rules = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)

    # WHEN
    named = re.findall(r"`([A-Z]\w+)(?:\.(\w+))?[(`]", rules)
    variables = {name for name, _ in named if name.startswith("SM_")}

    # THEN
    given = {**vars(cdk_horovod), **vars(horovod_client), **vars(builtins)}
    missing = [name for name, _ in named if name not in given and name not in variables]
    assert missing == []
    assert [f"{name}.{member}" for name, member in named if member and not hasattr(given[name], member)] == []
    # AND the variables are those that a training script reads
    script = (REPOSITORY / "examples" / "digits" / "train.py").read_text()
    assert variables == {"SM_CHANNEL_TRAIN", "SM_MODEL_DIR"} == set(re.findall(r"\bSM_\w+", script))


def test_files_of_the_guide_exist() -> None:
    """Files that the guide names exist, and the guide is in the wheel, where tools find it."""
    # WHEN
    files = re.findall(r"`([\w./]+\.(?:md|py))`", GUIDE)

    # THEN
    assert [name for name in files if not (REPOSITORY / name).exists()] == []
    assert '"AGENTS.md" = "cdk_horovod/AGENTS.md"' in (REPOSITORY / "pyproject.toml").read_text()
