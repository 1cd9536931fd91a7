"""The guide's PyTorch script, before and after its five lines, for real."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.node.plain_horovod import TWO_RANKS, cpu_environment
from support.synthesis import REPOSITORY

EXAMPLE = REPOSITORY / "examples" / "digits" / "train_torch.py"
(BLOCK,) = re.findall(r"```diff\n(.*?)```", (REPOSITORY / "docs" / "guide" / "train-pytorch.md").read_text(), re.DOTALL)


def lines(mark: str) -> str:
    """Give the script of one side of the diff."""
    return "\n".join(line[1:] for line in BLOCK.splitlines() if line[:1] in (" ", mark, "")) + "\n"


def run(digits: Path, python: str, folder: Path, script: str, *launcher: str) -> dict[str, Any]:
    """Run a script, and give the metrics that it leaves beside its model."""
    (folder / "script.py").write_text(script)
    (folder / "model").mkdir()
    ended = subprocess.run(
        [*launcher, python, str(folder / "script.py"), "--epochs", "6"],
        env=cpu_environment(python, SM_CHANNEL_TRAIN=str(digits), SM_MODEL_DIR=str(folder / "model")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (folder / "model" / "model.pt").is_file()
    metrics: dict[str, Any] = json.loads((folder / "model" / "metrics.json").read_text())
    return metrics


def test_script_needs_at_most_five_lines() -> None:
    """That is what is promised."""
    assert len([line for line in BLOCK.splitlines() if line.startswith("+") and line[1:].strip()]) <= 5


def test_example_is_the_guides_script() -> None:
    """Whoever copies either gets the same."""
    assert lines("+") == EXAMPLE.read_text()


@pytest.mark.slow
@pytest.mark.ring
@pytest.mark.parametrize(("mark", "ring"), [("-", False), ("+", False), ("+", True)])
def test_script_trains(digits: Path, python: str, tmp_path: Path, mark: str, ring: bool) -> None:
    """Before the change for one GPU, without anything of ours; after it there, and on two ranks."""
    assert ("horovod" in lines(mark)) == (mark == "+")
    launcher = [str(Path(python).parent / "horovodrun"), *TWO_RANKS] if ring else []
    assert run(digits, python, tmp_path, lines(mark), *launcher)["accuracy"] > 0.93
