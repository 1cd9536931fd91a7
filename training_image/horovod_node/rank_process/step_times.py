"""
Measures a rank's steps in two parts: the seconds that it computes, and the seconds that it then waits for other ranks.

In a ring every rank takes as long as the slowest, so the duration of a step does not show which rank that is. The two
parts do. They are measured inside the training function, around the averaging, and summed in one small variable on the
CPU. Python neither reads nor writes it during a step.

Only `horovod_node.training` measures, in the graph of its own optimizer. Nothing is added to any other graph: users may
trace it twice, compile it with XLA, or export it (ADR 16).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

Average = Callable[[list[Any]], Sequence[Any]]
"""Averages gradients over the ring; entries may be `None`, dense or sparse."""

_STEPS, _COMPUTE, _WAIT, _SINCE, _FIRST_RECENT = range(5)
RECENT_STEPS: Final = 100
"""Number of last steps whose time is kept for each: as many values as CloudWatch accepts at once."""
_TINY: Final = 1e-12
_FORGET_STEPS: Final = 50
"""Number of steps over which the moving average forgets older ones."""


class StepTimes:
    """The measurements of one process."""

    def __init__(self) -> None:
        self._totals: Any = None

    def around(self, average: Average, gradients: Sequence[Any]) -> list[Any]:
        """Average *gradients*, and measure how long that takes."""
        import tensorflow as tf

        # XLA cannot compile tf.timestamp, and in a TensorFlow 1 graph the sums could be read only in a session.
        if os.environ.get("HOROVOD_ENABLE_XLA_OPS") == "1" or not tf.compat.v1.executing_eagerly_outside_functions():
            return list(average(list(gradients)))
        present = [_dense(gradient) for gradient in gradients if gradient is not None]
        if not present:
            return list(average(list(gradients)))
        totals = self._variable(tf)
        ready = _moment(tf, present)
        averaged = list(average(list(gradients)))
        done = _moment(tf, [_dense(gradient) for gradient in averaged if gradient is not None])
        with tf.device("CPU:0"):
            steps, compute, wait, since = tf.unstack(totals[:_FIRST_RECENT])
            recent = totals[_FIRST_RECENT:]
            known = tf.cast(since > 0, tf.float64)
            sums = tf.stack([steps + known, compute + known * (ready - since), wait + known * (done - ready), done])
            moved = tf.concat([recent[1:], [done - since]], axis=0)
            totals.assign(tf.concat([sums, tf.where(since > 0, moved, recent)], axis=0))
        return averaged

    def pause(self) -> None:
        """Exclude the time until the next step, for example of an evaluation or a commit, from the measurement."""
        if self._totals is not None:
            self._totals[_SINCE].assign(0.0)

    def read(self) -> tuple[int, float, float, tuple[float, ...]]:
        """
        Return the number of steps, the total seconds of computing and of waiting, and the seconds of the last steps.

        Of these there are at most `RECENT_STEPS`, the newest last.
        """
        if self._totals is None:
            return 0, 0.0, 0.0, ()
        totals = self._totals.numpy()
        steps = int(totals[_STEPS])
        recent = tuple(round(float(seconds), 6) for seconds in totals[len(totals) - min(steps, RECENT_STEPS) :])
        return steps, float(totals[_COMPUTE]), float(totals[_WAIT]), recent

    def _variable(self, tf: Any) -> Any:
        if self._totals is None:
            # init_scope: the first step may be inside a function that is being traced.
            with tf.init_scope(), tf.device("CPU:0"):
                self._totals = tf.Variable(
                    tf.zeros(_FIRST_RECENT + RECENT_STEPS, tf.float64), trainable=False, name="step_times"
                )
        return self._totals


OF_THIS_PROCESS: Final = StepTimes()


@dataclass
class MovingAverage:
    """Moving averages of the seconds per step, computed from growing sums."""

    compute: float | None = None
    wait: float | None = None
    _steps: int = 0
    _compute: float = 0.0
    _wait: float = 0.0

    def see(self, steps: int, compute: float, wait: float) -> None:
        """Update the averages with the present sums."""
        new = steps - self._steps
        if new <= 0:
            return
        weight = min(1.0, new / min(steps, _FORGET_STEPS))
        self.compute = _blend(self.compute, (compute - self._compute) / new, weight)
        self.wait = _blend(self.wait, (wait - self._wait) / new, weight)
        self._steps, self._compute, self._wait = steps, compute, wait


def _blend(old: float | None, new: float, weight: float) -> float:
    return new if old is None else old + weight * (new - old)


def _dense(gradient: Any) -> Any:
    return getattr(gradient, "values", gradient)


def _moment(tf: Any, tensors: list[Any]) -> Any:
    """
    Return the time at which all *tensors* are computed.

    TensorFlow considers an operation on a GPU done when it is queued. So a number is computed after them on their
    device, and the clock, on the CPU, waits for its copy. Adding the number, times nearly nothing, to the time keeps
    TensorFlow from optimising the copy away.
    """
    with tf.control_dependencies(tensors):
        first = tf.reshape(tensors[0], [-1])[:1]
        mark = tf.reduce_sum(tf.cast(first != first, tf.float64))
    with tf.device("CPU:0"):
        mark = tf.identity(mark)
        with tf.control_dependencies([mark]):
            return tf.timestamp() + mark * tf.constant(_TINY, tf.float64)
