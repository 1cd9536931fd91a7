"""The training helper's parts that need real TensorFlow and Horovod, but no agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.node import training_proofs
from support.node.plain_horovod import cpu_environment
from support.node.rings import SCRIPTS, wait_for
from support.node.training_proofs import KERAS_2_CASES, prove_averaging
from support.waiting import SECONDS

pytestmark = pytest.mark.ring


def test_gradients_are_averaged_under_keras_2(tmp_path: Path) -> None:
    """Ranks with other weights and data end with equal weights, and with those that averaged gradients lead to."""
    prove_averaging(tmp_path, KERAS_2_CASES)


def train(folder: Path, *arguments: str, **more: str) -> dict[str, Any] | int:
    """Run the script to its end, and give what it printed, or its exit code."""
    return training_proofs.train("resume_training.py", folder, *arguments, **more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Train without a fault."""
    found = train(tmp_path_factory.mktemp("undisturbed"))
    assert isinstance(found, dict)
    assert (found["taken"], found["epochs"]) == (80, [2, 2])
    return found


@pytest.mark.parametrize(("step", "left"), [(33, 50), pytest.param(48, 35, marks=pytest.mark.slow)])
def test_killed_training_goes_on_from_its_checkpoint(
    tmp_path: Path, undisturbed: dict[str, Any], step: int, left: int
) -> None:
    """In either call of fit, in mid-epoch: the same order of examples, and in the end the very same weights."""
    # GIVEN
    assert train(tmp_path, "--die-at-step", str(step)) == -signal.SIGKILL
    # WHEN
    found = train(tmp_path)
    # THEN the steps since the newest checkpoint, every fifth, are done again; one may not have been finished
    assert isinstance(found, dict)
    assert found["taken"] in (left, left + 5)
    np.testing.assert_allclose(found["weights"], undisturbed["weights"], atol=1e-6)


def test_torn_checkpoint_is_passed_over(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Half a file, or none: the checkpoint before it serves."""
    # GIVEN
    assert train(tmp_path, "--die-at-step", "28") == -signal.SIGKILL
    # A third one may not have been removed yet.
    *_, before, newest = sorted(path for path in (tmp_path / "checkpoints").iterdir() if path.name[0] != ".")
    values = newest / "values.npz"
    os.truncate(values, values.stat().st_size // 2)
    # WHEN
    found = train(tmp_path)
    # THEN
    assert isinstance(found, dict)
    assert found["taken"] == 80 - int(before.name)
    np.testing.assert_allclose(found["weights"], undisturbed["weights"], atol=1e-6)


def test_sigterm_leaves_a_checkpoint_of_the_last_step(tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    """Told to stop, the script ends well and at once, and nothing that was done is done again."""
    # GIVEN
    (tmp_path / "model").mkdir()
    script = subprocess.Popen(
        [sys.executable, str(SCRIPTS / "resume_training.py"), "--wait-at-step", "28"],
        env=cpu_environment(SM_MODEL_DIR=str(tmp_path / "model"), SM_CHECKPOINT_DIR=str(tmp_path / "checkpoints")),
    )
    wait_for("step 28", (tmp_path / "model" / "waiting").exists)
    # WHEN
    script.send_signal(signal.SIGTERM)
    # THEN
    assert script.wait(timeout=SECONDS) == 0
    assert max(path.name for path in (tmp_path / "checkpoints").iterdir()) == f"{28:012d}"
    found = train(tmp_path)
    assert isinstance(found, dict)
    assert found["taken"] == 80 - 28
    np.testing.assert_allclose(found["weights"], undisturbed["weights"], atol=1e-6)


def test_fails_when_the_checkpoint_is_another_models(tmp_path: Path) -> None:
    """A changed model does not silently begin anew."""
    # GIVEN
    assert train(tmp_path, "--die-at-step", "13") == -signal.SIGKILL
    # WHEN / THEN
    assert train(tmp_path, "--units", "17") == 1
