"""What `cdk-horovod train` prints where there is no terminal."""

from __future__ import annotations

import pytest

from horovod_client.cli import news
from horovod_client.status import RunStatus, TrainingProgress


def test_progress_is_printed_when_it_is_new(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the model is saved and nodes go away, the training makes no steps, and nobody is told of the same one."""
    # GIVEN
    monkeypatch.setattr(news, "PROGRESS_SECONDS", 0.0)
    print_news = news.news_printer(err=False)
    seen = [("training", 1), ("training", 1), ("training", 2), ("saving", 2), ("terminating", 2)]
    # WHEN
    for stage, step in seen:
        progress = TrainingProgress(step=step, ranks=2)
        print_news(RunStatus(run="r", state="RUNNING", stage=stage, progress=progress))
    # THEN
    said = capsys.readouterr().out.splitlines()
    assert said == ["training", "  step 1, 2 ranks", "  step 2, 2 ranks", "saving", "terminating"]
