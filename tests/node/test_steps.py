"""The step counter follows real Keras, in every way of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import horovod_node
from horovod_node.progress import Progress
from node.rings import SCRIPTS


@pytest.mark.ring
def test_steps_of_every_optimizer_are_seen(tmp_path: Path) -> None:
    """New and legacy optimizers, `fit`, `tf.function` and eager loops: each advances, and none when nothing trains."""
    # GIVEN / WHEN
    ended = subprocess.run(
        [sys.executable, str(SCRIPTS / "keras_steps.py"), str(tmp_path / "progress")],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(horovod_node.__file__).parents[1]),
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    # THEN
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen.pop("untouched")
    assert seen == {
        how: {"iterations": 3, "step": 3, "advanced": True, "still": True}
        for how in ("fit", "function", "eager", "legacy fit", "legacy eager")
    }
    # AND the file holds the step of the furthest optimizer, and an advance for each of the five
    assert Progress.read(tmp_path / "progress") == Progress(step=3, advances=5)


def test_progress_that_was_never_written_is_none(tmp_path: Path) -> None:
    """A rank that has not started has done nothing."""
    assert Progress.read(tmp_path / "progress") == Progress(step=0, advances=0)
