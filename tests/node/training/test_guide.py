"""The guide's script, before and after its five lines, for real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from support.node.plain_horovod import TWO_RANKS, cpu_environment
from support.synthesis import REPOSITORY

pytestmark = pytest.mark.ring

GUIDE = REPOSITORY / "docs" / "guide" / "train-your-script.md"
EXAMPLE = REPOSITORY / "examples" / "digits" / "train_elastic.py"


@pytest.fixture(scope="module")
def diff() -> list[str]:
    """Give the lines of the guide's diff."""
    (block,) = re.findall(r"```diff\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return list(block.splitlines())


def lines(diff: list[str], mark: str) -> str:
    """Give the script of one side of the diff."""
    return "\n".join(line[1:] for line in diff if line[:1] in (" ", mark, "")) + "\n"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Give a folder with the data channel."""
    found = load_digits()
    (tmp_path / "data").mkdir()
    np.savez(tmp_path / "data" / "digits.npz", images=(found.images / 16).astype("float32"), labels=found.target)
    return tmp_path


def run(folder: Path, script: str, *launcher: str) -> dict[str, Any]:
    """Run a script, and give the metrics that it leaves beside its model."""
    (folder / "script.py").write_text(script)
    (folder / "model").mkdir()
    ended = subprocess.run(
        [*launcher, sys.executable, str(folder / "script.py"), "--epochs", "6"],
        env=cpu_environment(SM_CHANNEL_TRAIN=str(folder / "data"), SM_MODEL_DIR=str(folder / "model")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert (folder / "model" / "model.keras").is_file()
    metrics: dict[str, Any] = json.loads((folder / "model" / "metrics.json").read_text())
    return metrics


def test_script_needs_at_most_five_lines(diff: list[str]) -> None:
    """That is what is promised."""
    assert len([line for line in diff if line.startswith("+") and line[1:].strip()]) <= 5


def test_example_is_the_guides_script(diff: list[str]) -> None:
    """Whoever copies either gets the same."""
    assert lines(diff, "+") == EXAMPLE.read_text()


def test_script_trains_before(digits: Path, diff: list[str]) -> None:
    """For one GPU, without anything of ours."""
    assert "horovod" not in lines(diff, "-")
    assert run(digits, lines(diff, "-"))["accuracy"] > 0.93


def test_script_trains_after_on_one_gpu(digits: Path, diff: list[str]) -> None:
    """The same script on a laptop."""
    assert run(digits, lines(diff, "+"))["accuracy"] > 0.93


def test_script_trains_after_on_a_ring(digits: Path, diff: list[str]) -> None:
    """And on two ranks."""
    assert run(digits, lines(diff, "+"), "horovodrun", *TWO_RANKS)["accuracy"] > 0.93
