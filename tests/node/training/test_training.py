"""The training helper's parts that need real TensorFlow and Horovod, but no agent."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import horovod_node
from support.node.horovodrun import run_on_two_ranks
from support.node.rings import SCRIPTS, wait_for
from support.waiting import SECONDS

pytestmark = pytest.mark.ring

CASES = {
    "momentum",
    "adam",
    "sqrt",
    "schedule",
    "clipnorm",
    "global clipnorm",
    "weight decay",
    "moving average",
    "sparse",
    "loss scale",
    "infinity",
    "mixed precision",
}
KERAS_2_CASES, KERAS_3_CASES = CASES | {"legacy", "legacy sparse"}, CASES | {"accumulation"}


def environment(python: str = sys.executable, **more: str) -> dict[str, str]:
    """Give what a script finds on a machine without a GPU."""
    return {
        "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(horovod_node.__file__).parents[1]),
        "CUDA_VISIBLE_DEVICES": "-1",
        "OMP_NUM_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **more,
    }


def prove_averaging(folder: Path, cases: set[str], *, python: str = sys.executable, **more: str) -> None:
    """Run the proof on two ranks, and look at it."""
    (folder / "model").mkdir()
    ended = run_on_two_ranks(
        SCRIPTS / "average_gradients.py",
        python=python,
        environment=environment(python, SM_MODEL_DIR=str(folder / "model"), **more),
    )
    assert ended.returncode == 0, ended.stderr
    ranks = [json.loads(line) for line in re.findall(r"result \d (.*)$", ended.stdout, re.MULTILINE)]
    assert len(ranks) == 2
    assert set(ranks[0]) == cases
    # One rank began where the other did not.
    assert min(max(rank[name]["apart_at_first"] for rank in ranks) for name in cases) > 0.1
    for rank in ranks:
        assert {name: found["apart"] for name, found in rank.items()} == dict.fromkeys(cases, 0.0)
        for name, found in rank.items():
            # Weights moved by some hundredths; gradients in half precision are that much less exact.
            tolerance = 1e-3 if name == "mixed precision" else 1e-6
            assert found["from_expected"] < tolerance, name
            assert found["moved"] > 0.005, name
            assert found["rate"] <= 0.0500001, name
    # AND the model loads where nothing is known of rings
    loaded = subprocess.run(
        [
            *(python, "-c"),
            "import tensorflow as tf, sys; optimizer = tf.keras.models.load_model(sys.argv[1]).optimizer;"
            "rate = float(optimizer.get_config()['learning_rate']);"
            "print(type(optimizer).__name__, int(optimizer.iterations.numpy()), round(rate, 6))",
            str(folder / "model" / "model.keras"),
        ],
        env={**environment(python, **more), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.stdout.split() == ["Adam", "8", "0.01"], loaded.stderr


def test_gradients_are_averaged_under_keras_2(tmp_path: Path) -> None:
    """Ranks with other weights and data end with equal weights, and with those that averaged gradients lead to."""
    prove_averaging(tmp_path, KERAS_2_CASES)


def train(folder: Path, *arguments: str, **more: str) -> dict[str, Any] | int:
    """Run the script to its end, and give what it printed, or its exit code."""
    (folder / "model").mkdir(exist_ok=True, parents=True)
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / "resume_training.py"), *arguments],
        env=environment(SM_MODEL_DIR=str(folder / "model"), SM_CHECKPOINT_DIR=str(folder / "checkpoints"), **more),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        print(ended.stderr)
        return ended.returncode
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


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
        env=environment(SM_MODEL_DIR=str(tmp_path / "model"), SM_CHECKPOINT_DIR=str(tmp_path / "checkpoints")),
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
