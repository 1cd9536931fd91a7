"""The step counter follows real Keras, in every way of training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import horovod_node
from horovod_node.rank_process.progress import Progress
from horovod_node.rank_process.step_counter import StepsBetweenLooks
from support.node.rings import SCRIPTS


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
    written = Progress.read(tmp_path / "progress")
    assert (written.step, written.advances) == (3, 5)


def test_progress_that_was_never_written_is_none(tmp_path: Path) -> None:
    """A rank that has not started has done nothing."""
    assert Progress.read(tmp_path / "progress") == Progress(step=0, advances=0)


def test_seconds_of_steps_come_from_looks_at_their_count() -> None:
    """The steps between two looks share the time between them; steps slower than the looks are known one by one."""
    # GIVEN
    steps = StepsBetweenLooks()
    # WHEN
    for at, step in ((0.0, 0), (5.0, 3), (6.0, 7), (7.0, 7), (9.0, 8)):
        steps.see(step, at=at)
    # THEN what came before the first step is no step's time
    assert (steps.steps, list(steps.recent)) == (5, [0.25] * 4 + [3.0])


def test_count_that_begins_anew_is_no_step() -> None:
    """A script that takes a second optimizer counts from its first step again."""
    # GIVEN
    steps = StepsBetweenLooks()
    steps.see(900, at=0.0)
    # WHEN
    for at, step in ((1.0, 2), (2.0, 4)):
        steps.see(step, at=at)
    # THEN
    assert (steps.steps, list(steps.recent)) == (2, [0.5, 0.5])
