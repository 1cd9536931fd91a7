"""What `training.fit` tells of loss and pace, by a clock that a test moves."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.ring

STEPS, EXAMPLES = 4, 32
"""Steps of an epoch, and examples that a rank takes in one."""


def helper() -> Any:
    """Give the module, whose name in its package is that of the function."""
    return import_module("horovod_node.training.fit")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give the helper a clock that stands still, in epoch 0 of a ring of two."""
    from horovod_node.training import ring

    fit = helper()
    clock = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(ring, "size", lambda: 2)
    return clock


def facts_of_epochs(
    clock: SimpleNamespace, *, epochs: int, step_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """Take epochs whose steps take so long each, with the step's number as loss; give what was told at each end."""
    from horovod_node.training.position import Position

    fit = helper()
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(fit.steps, "tell", lambda **facts: told.append(facts))
    training = fit._Training(
        None,
        None,
        SimpleNamespace(position=Position()),
        epochs=epochs,
        schedule=SimpleNamespace(steps=10**9),
        checkpoints=None,
        checkpoint_every=None,
    )
    training._leg = SimpleNamespace(steps=STEPS, examples=EXAMPLES, epoch=0, start=0, unit=EXAMPLES)
    training._epoch_steps = STEPS
    at_ends = []
    for epoch in range(epochs):
        training.on_epoch_begin(epoch)
        for taken in range(1, STEPS + 1):
            clock.seconds += step_seconds
            training.on_step_end(taken, {"loss": float(epoch * STEPS + taken)})
        at_ends.append(told[-1])
        training.on_epoch_end(epoch)
    return at_ends


def test_epochs_shorter_than_a_second_tell_loss_and_pace(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is looked at when an epoch ends, at most once a second: each look costs the GPU its queue."""
    # WHEN
    ends = facts_of_epochs(clock, epochs=5, step_seconds=0.125, monkeypatch=monkeypatch)
    # THEN
    assert [facts.get("loss") for facts in ends] == [None, 8.0, 8.0, 16.0, 16.0]
    # AND the pace is that of both ranks in the epoch that was measured
    assert [facts.get("samples_per_second") for facts in ends[1:]] == [EXAMPLES * 2 / 0.125] * 4
    assert [(facts["epoch"], facts["steps"]) for facts in ends] == [(epoch, 20) for epoch in range(1, 6)]


def test_long_epochs_tell_loss_and_pace_within_them(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of two seconds is looked at in its middle and at its end."""
    # WHEN
    ends = facts_of_epochs(clock, epochs=2, step_seconds=0.5, monkeypatch=monkeypatch)
    # THEN
    assert [(facts["loss"], facts["samples_per_second"]) for facts in ends] == [(4.0, 128.0), (8.0, 128.0)]
