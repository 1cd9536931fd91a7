"""Which errors mean that a ring was lost, and what becomes of the others."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.ring

GROUPED = (
    "Graph execution error: [/tmp/gloo/transport/tcp/pair.cc:589] Read error [127.0.0.1]:18869: Connection reset by "
    "peer [[{{node HorovodGroupedAllreduce}}]]"
)


class Ring:
    """Counts what is asked of it: no other process is needed for that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from horovod_node.training import ring

        self.events: list[str] = []
        monkeypatch.setenv("HOROVOD_ELASTIC", "1")
        monkeypatch.setattr(ring, "form_anew", lambda: self.events.append("form anew"))

    def keep_training(self, *outcomes: Any) -> Any:
        """Train in a loop whose rounds end like *outcomes*."""
        from horovod_node.training import ring
        from horovod_node.training.elastic import is_lost_ring
        from horovod_node.training_base.elastic import HostUpdates, keep_training

        ends = iter(outcomes)

        def train() -> Any:
            outcome = next(ends)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        return keep_training(
            train,
            sync=lambda: self.events.append("sync"),
            restore=lambda: self.events.append("restore"),
            updates=HostUpdates(),
            ring=ring,
            is_lost_ring=is_lost_ring,
        )


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Ring:
    """Give an elastic ring of nobody else."""
    return Ring(monkeypatch)


def test_horovods_own_loop_ends_in_silence() -> None:
    """Why it is not used: for an operation that it does not know, a lost ring looks like a training's good end."""
    import tensorflow as tf
    from horovod.tensorflow.elastic import run

    class State:
        def sync(self) -> None:
            pass

    @run  # type: ignore[untyped-decorator]
    def train(_state: State) -> str:
        raise tf.errors.UnknownError(None, None, GROUPED)

    assert train(State()) is None


def test_lost_ring_goes_back_to_the_last_commit(ring: Ring) -> None:
    """Whatever operation notices it; and again, when the next ring is lost as well."""
    import tensorflow as tf
    from horovod.common.exceptions import HorovodInternalError

    # WHEN
    trained = ring.keep_training(
        tf.errors.UnknownError(None, None, GROUPED), HorovodInternalError("shut down"), "trained"
    )
    # THEN
    assert trained == "trained"
    assert ring.events == ["sync", *["restore", "form anew", "sync"] * 2]


def test_changed_ring_loses_nothing(ring: Ring) -> None:
    """All ranks left at the same step, with the same state."""
    from horovod_node.training_base.elastic import RingChanged

    assert ring.keep_training(RingChanged(), "trained") == "trained"
    assert ring.events == ["sync", "form anew", "sync"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("UnknownError", "the file server is in a bad mood: /opt/horovod_node/training/fit.py"),
        ("InvalidArgumentError", "Mismatched allreduce tensor shapes [[{{node HorovodAllreduce}}]]"),
        ("ResourceExhaustedError", "OOM when allocating [[{{node HorovodAllreduce}}]]"),
    ],
)
def test_other_errors_end_the_training(ring: Ring, kind: str, words: str) -> None:
    """What would fail again in the next ring must not look like a lost node."""
    import tensorflow as tf

    error = getattr(tf.errors, kind)(None, None, words)
    with pytest.raises(type(error)):
        ring.keep_training(error)
    assert ring.events == ["sync"]


def test_ring_that_cannot_change_fails(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A static run starts again as a whole, from its checkpoint."""
    import tensorflow as tf

    monkeypatch.delenv("HOROVOD_ELASTIC")
    with pytest.raises(tf.errors.UnknownError):
        ring.keep_training(tf.errors.UnknownError(None, None, GROUPED))
    assert ring.events == ["sync"]
