"""What a rank says of its progress, and how it comes to the agent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from horovod_node.rank_process import step_counter
from horovod_node.rank_process.progress import Progress


def test_progress_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """All of it, through one file."""
    progress = Progress(
        step=7,
        advances=9,
        epoch=1,
        epochs=3,
        steps=21,
        loss=0.5,
        samples_per_second=100.0,
        committed_step=5,
        repeated_steps=2,
        compute_seconds_per_step=0.1,
        wait_seconds_per_step=0.2,
        timed_steps=2,
        step_seconds=(0.31, 0.29),
    )
    progress.write(tmp_path / "progress")
    assert Progress.read(tmp_path / "progress") == progress
    assert [path.name for path in tmp_path.iterdir()] == ["progress"]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_no_number_is_not_told(tmp_path: Path, loss: float) -> None:
    """JSON knows neither; the file stays one that any reader can read."""
    Progress(step=1, loss=loss).write(tmp_path / "progress")
    assert json.loads((tmp_path / "progress").read_text())["loss"] is None


def test_lost_steps_are_advances_too(tmp_path: Path) -> None:
    """An optimizer that goes back to its last commit is at work, though its number is smaller for a while."""
    # GIVEN
    counter = step_counter.StepCounter(tmp_path / "progress")
    optimizer = SimpleNamespace(_iterations=SimpleNamespace(numpy=lambda: np.int64(at)))

    class Module:
        class Optimizer:
            def __init__(self) -> None:
                self._iterations = optimizer._iterations

    module = Module()
    counter._watch_class("Optimizer", module)  # type: ignore[arg-type]
    watched = module.Optimizer()
    # WHEN
    seen = []
    for at in (5, 9, 4, 6):  # noqa: B007 - read by the optimizer
        seen.append(counter.relay())
    # THEN
    assert [progress.advances for progress in seen] == [1, 2, 3, 4]
    assert [progress.step for progress in seen] == [5, 9, 9, 9]
    assert watched is not None


def test_trainings_word_for_the_step_counts(tmp_path: Path) -> None:
    """It knows of steps before a restart, and of lost ones; a report without an advance is none."""
    # GIVEN
    counter = step_counter.StepCounter(tmp_path / "progress")
    # WHEN
    counter.tell(step=100, advance=False, epoch=3)
    # THEN
    assert counter.relay() == Progress(step=100, advances=0, epoch=3)
    # WHEN
    counter.tell(step=101, loss=0.5)
    counter.tell(step=95, repeated_steps=6)
    # THEN
    counter.relay()
    assert Progress.read(tmp_path / "progress") == Progress(step=95, advances=2, epoch=3, loss=0.5, repeated_steps=6)
