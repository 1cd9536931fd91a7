"""What `cdk-horovod train` prints where there is no terminal."""

from __future__ import annotations

import pytest

from horovod_client import RunStatus, TrainingProgress
from horovod_client.cli.watch import lines


def test_progress_is_printed_when_it_is_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A step is printed once, even if the run's stage changes after it."""
    # GIVEN
    monkeypatch.setattr(lines, "PROGRESS_SECONDS", 0.0)
    print_news = lines.news_printer(err=False)
    seen = [("training", 1), ("training", 1), ("training", 2), ("saving", 2), ("terminating", 2)]
    # WHEN
    for stage, step in seen:
        progress = TrainingProgress(step=step, ranks=2)
        print_news(RunStatus(run="r", state="RUNNING", stage=stage, progress=progress))
    # THEN
    said = capsys.readouterr().out.splitlines()
    assert said == ["training", "  step 1, 2 ranks", "  step 2, 2 ranks", "saving", "terminating"]


def test_time_that_is_left_is_no_news(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A step is not printed again when only its remaining time has changed."""
    # GIVEN
    monkeypatch.setattr(lines, "PROGRESS_SECONDS", 0.0)
    print_news = lines.news_printer(err=False)
    # WHEN
    for step, left in ((1, 50.0), (1, 60.0), (1, 70.0), (2, 40.0)):
        progress = TrainingProgress(step=step, steps=9, eta_seconds=left)
        print_news(RunStatus(run="r", state="RUNNING", stage="training", progress=progress))
    # THEN
    assert capsys.readouterr().out.splitlines() == ["training", "  step 1/9, 50 s left", "  step 2/9, 40 s left"]
