"""What `training.fit` tells of loss and pace, by a clock that a test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.ring

STEPS, EXAMPLES = 4, 32
"""Steps of an epoch, and examples that a rank takes in one."""


def facts_of_epochs(*, epochs: int, step_seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Take epochs of a ring of two, whose steps take so long and have their number as loss; give what each end told."""
    from horovod_node.training.work import Leg
    from horovod_node.training_base import report
    from horovod_node.training_base.position import Position

    clock = SimpleNamespace(seconds=100.0)
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(report, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(report.steps, "tell", lambda **facts: told.append(facts))
    teller = report.Report(epochs=epochs)
    leg = Leg(arguments={}, epoch=0, epochs=epochs, steps=STEPS, unit=EXAMPLES, start=0, examples=EXAMPLES)
    at_ends = []
    for epoch in range(epochs):
        teller.begin(epoch * STEPS)
        for taken in range(1, STEPS + 1):
            clock.seconds += step_seconds
            step = epoch * STEPS + taken
            position = Position(step=step, epoch=epoch)
            teller.tell(position, leg=leg, taken=taken, epoch_steps=STEPS, ranks=2, logs={"loss": float(step)})
        at_ends.append(told[-1])
    return at_ends


def test_epochs_shorter_than_a_second_tell_loss_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is looked at when an epoch ends, at most once a second: each look costs the GPU its queue."""
    # WHEN
    ends = facts_of_epochs(epochs=5, step_seconds=0.125, monkeypatch=monkeypatch)
    # THEN
    assert [facts.get("loss") for facts in ends] == [None, 8.0, 8.0, 16.0, 16.0]
    # AND the pace is that of both ranks in the epoch that was measured
    assert [facts.get("samples_per_second") for facts in ends[1:]] == [EXAMPLES * 2 / 0.125] * 4
    assert [(facts["epoch"], facts["steps"]) for facts in ends] == [(epoch, 20) for epoch in range(1, 6)]


def test_long_epochs_tell_loss_and_pace_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of two seconds is looked at in its middle and at its end."""
    # WHEN
    ends = facts_of_epochs(epochs=2, step_seconds=0.5, monkeypatch=monkeypatch)
    # THEN
    assert [(facts["loss"], facts["samples_per_second"]) for facts in ends] == [(4.0, 128.0), (8.0, 128.0)]
