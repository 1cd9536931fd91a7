"""
Counts a rank's training steps, without changes to the script.

Every Keras optimizer has a variable `iterations` that each applied step raises by one: in `fit`, in a `tf.function`
and in an eager loop alike. Optimizers are remembered as they are created. A thread reads their variables and reports
the number to the agent. Inside a `tf.function` the variable may be raised before the step's gradients have arrived
from the other ranks, so the count may be ahead by at most one.

The thread reports only changes. While no step is applied, it reports nothing, even though the thread itself is alive.
Heartbeats follow these reports, so a hung ring sends no heartbeats.

The thread also measures the mean duration of the steps between two of its polls. The exact measurement of
`horovod_node.training` (`step_times`) takes precedence.

PyTorch's optimizers are counted as they step (`torch_steps`). A script that uses neither reports its steps with
`horovod_node.steps.report(step)`. The training helpers report more, with `tell`. From then on their step takes
precedence, because an optimizer does not count the steps before a restart.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from horovod_node.rank_process import step_times
from horovod_node.rank_process.progress import Progress
from horovod_node.rank_process.torch_steps import TorchSteps

OPTIMIZER_CLASSES: Final[Mapping[str, str]] = {
    "keras.src.optimizers.optimizer": "_BaseOptimizer",
    "keras.src.optimizers.legacy.optimizer_v2": "OptimizerV2",
    "keras.src.optimizers.base_optimizer": "BaseOptimizer",
    "tf_keras.src.optimizers.optimizer": "_BaseOptimizer",
    "tf_keras.src.optimizers.legacy.optimizer_v2": "OptimizerV2",
}
"""
Module to the base class of all its optimizers: Keras 2.13-2.15 (new and legacy), Keras 3, tf-keras (new and legacy).

Verified with Keras 2.15.0, Keras 3.15.1 and tf-keras 2.18.0.
"""

_UNTIL_FIRST_STEP_SECONDS = 0.1
_SECONDS = 1.0
_CLOSE_SECONDS = 5.0


class StepCounter:
    """
    Watches the script's optimizers and reports their steps.

    Args:
        file: File in which the agent reads this rank's progress.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._optimizers: list[weakref.ref[Any]] = []
        self._torch = TorchSteps()
        self._torch_changes = 0
        self._seen: dict[int, int] = {}
        self._reported = 0
        self._progress = Progress()
        self._written = Progress()
        self._told = False
        self._average = step_times.MovingAverage()
        self._between = StepsBetweenLooks()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._relay_forever, name="steps", daemon=True)

    def hooks(self) -> dict[str, Callable[[ModuleType], None]]:
        """Return the hooks that watch every new optimizer, by the module after whose import they run."""
        keras = {
            module: functools.partial(self._watch_class, class_name) for module, class_name in OPTIMIZER_CLASSES.items()
        }
        return {**keras, **self._torch.hooks()}

    def start(self) -> None:
        """Start to report in the background, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """
        Stop the thread, and report for the last time.

        The thread must end before Python does: if it returned from TensorFlow into an interpreter that is shutting
        down, it would crash the process, and a rank that succeeded would seem to be killed.
        """
        self._closed.set()
        self._thread.join(timeout=_CLOSE_SECONDS)
        self.relay()

    def report(self, step: int) -> None:
        """Record a step that the script reports; the same number again does not count as an advance."""
        with self._lock:
            if step != self._reported:
                self._reported = step
                self._note(max(step, self._progress.step))
                self._write()

    def tell(self, *, step: int, advance: bool = True, **facts: Any) -> None:
        """Record what the training reports: its step, which may have decreased, and other facts."""
        with self._lock:
            self._told = True
            self._progress = replace(self._progress, step=step, **facts)
            if advance:
                self._note(step)

    def relay(self) -> Progress:
        """Poll every optimizer once, report any change, and return the progress."""
        with self._lock:
            optimizers = list(enumerate(self._optimizers))
        # Outside of the lock: a read may wait for the device, and the script must not wait with it.
        taken = {
            number: _iterations(optimizer) for number, reference in optimizers if (optimizer := reference()) is not None
        }
        # PyTorch's optimizers have negative numbers, Keras's do not.
        taken |= {-1 - number: step for number, step in enumerate(self._torch.read())}
        changes = self._torch.changes()
        steps, compute, wait, recent = step_times.OF_THIS_PROCESS.read()
        with self._lock:
            for number, step in taken.items():
                # A smaller number counts, too: an optimizer is set back when steps are lost, and then repeats them.
                if step != self._seen.get(number, 0):
                    self._seen[number] = step
                    self._note(self._progress.step if self._told else max(step, self._progress.step))
            if changes > self._torch_changes:
                self._note(self._progress.step)
            self._torch_changes = changes
            self._average.see(steps, compute, wait)
            if self._average.compute is not None:
                self._progress = replace(
                    self._progress,
                    compute_seconds_per_step=self._average.compute,
                    wait_seconds_per_step=self._average.wait,
                    timed_steps=steps,
                    step_seconds=recent,
                )
            elif not self._told:
                self._between.see(self._progress.step, at=time.monotonic())
                self._progress = replace(
                    self._progress, timed_steps=self._between.steps, step_seconds=tuple(self._between.recent)
                )
            self._write()
            return self._progress

    def _note(self, step: int) -> None:
        self._progress = replace(self._progress, step=step, advances=self._progress.advances + 1)

    def _write(self) -> None:
        if self._progress != self._written:
            # The disk may be full for a while. The training continues, and the next poll writes again.
            with contextlib.suppress(OSError):
                self._progress.write(self._file)
                self._written = self._progress

    def _relay_forever(self) -> None:
        pause = _UNTIL_FIRST_STEP_SECONDS
        while not self._closed.wait(pause):
            pause = _SECONDS if self.relay().advances else _UNTIL_FIRST_STEP_SECONDS

    def _watch_class(self, class_name: str, module: ModuleType) -> None:
        optimizer_class = getattr(module, class_name, None)
        if optimizer_class is None:
            return
        make = optimizer_class.__init__

        @functools.wraps(make)
        def make_and_remember(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            make(optimizer, *args, **kwargs)
            # An optimizer that cannot be watched is still the script's optimizer.
            with contextlib.suppress(TypeError), self._lock:
                self._optimizers.append(weakref.ref(optimizer))

        optimizer_class.__init__ = make_and_remember


class StepsBetweenLooks:
    """Seconds of single steps, derived from a step count that is polled."""

    def __init__(self) -> None:
        self.steps = 0
        """Number of steps whose time was measured."""
        self.recent: deque[float] = deque(maxlen=step_times.RECENT_STEPS)
        """Seconds of each of the last of them, the newest last."""
        self._step = 0
        self._at: float | None = None

    def see(self, step: int, *, at: float) -> None:
        """Record the count at the time *at*, in seconds of a monotonic clock."""
        new, since = step - self._step, self._at
        if new == 0:
            return
        self._step, self._at = step, at
        # The first steps include the building of the graph; a count that decreased was reset.
        if since is None or new < 0:
            return
        self.steps += new
        self.recent.extend([round((at - since) / new, 6)] * min(new, step_times.RECENT_STEPS))


def _iterations(optimizer: Any) -> int:
    # Not the property `iterations`: the legacy optimizer's creates the variable, in this thread, if it does not exist.
    variable = vars(optimizer).get("_iterations")
    if variable is None:
        return 0
    try:
        return int(variable.numpy())
    except Exception:
        # A variable inside a TensorFlow 1 graph has no value outside of its session: such scripts use report().
        return 0


_counter: StepCounter | None = None


def install(counter: StepCounter) -> None:
    """Make *counter* the one that `report` and `tell` use; a rank's process has one."""
    global _counter
    _counter = counter


def report(step: int) -> None:
    """
    Report how many training steps this rank has taken.

    Only scripts that train without an optimizer of Keras or PyTorch need it. Call it after each step, or every few
    seconds. Outside of a rank, on a laptop for example, it does nothing.

    Args:
        step: Number of steps since the start.
    """
    if _counter is not None:
        _counter.report(step)


def tell(*, step: int, advance: bool = True, **facts: Any) -> None:
    """
    Report the progress of a training helper. Outside of a rank it does nothing.

    Args:
        step: The training's step.
        advance: Whether a step was trained or evaluated since the last call.
        facts: Fields of `Progress`, by name.
    """
    if _counter is not None:
        _counter.tell(step=step, advance=advance, **facts)
