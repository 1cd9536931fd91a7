"""
Counts the steps of PyTorch's optimizers, with hooks that PyTorch calls before and after each `step()`.

The hooks change neither optimizer nor gradients.

- Horovod's `DistributedOptimizer` is a subclass created at run time. PyTorch calls the hooks around its `step()` and
  again around the `step()` that it inherits. Only a return that follows a call counts, so that both are one step.
- `hvd.broadcast_optimizer_state` takes a step with zero gradients to create the optimizer's state. It is not counted.
- While `torch.compile` traces a step, the hooks return at once and add nothing to the graph, so compiled steps are not
  counted. If no step is counted, the versions of the parameters, which every change raises, show that the training
  advances. Such a script reports its steps itself: `horovod_node.steps.report(step)`.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

_CHANGES_BEFORE_TRAINING: Final = 2
"""Changes of parameters that may precede the training, after the optimizer was created: to initialise or load them."""


@dataclass
class _Count:
    """One optimizer's steps."""

    optimizer: weakref.ref[Any]
    begun: bool = False
    taken: int = 0


class TorchSteps:
    """The counts of one process."""

    def __init__(self) -> None:
        self._counts: list[_Count] = []
        """Counts in the order of first steps. The list only grows, so another thread may read it."""
        self._by_id: dict[int, _Count] = {}
        self._made: list[tuple[weakref.ref[Any], int]] = []
        """Optimizers, with the version of their first parameter at their creation."""
        self._paused = False

    def hooks(self) -> dict[str, Callable[[ModuleType], None]]:
        """Return the hooks that watch every optimizer, by the module after whose import they run."""
        return {"torch.optim.optimizer": self._watch_steps, "horovod.torch.functions": self._watch_broadcast}

    def read(self) -> list[int]:
        """Return the number of steps of each optimizer that has taken any."""
        return [count.taken for count in list(self._counts)]

    def changes(self) -> int:
        """Return how often a training with compiled steps has changed its parameters; 0 if steps are counted."""
        if self._counts:
            return 0
        made = [(optimizer(), version) for optimizer, version in list(self._made)]
        changes = sum(_version(optimizer) - version for optimizer, version in made if optimizer is not None)
        return max(0, changes - _CHANGES_BEFORE_TRAINING)

    def _watch_steps(self, module: Any) -> None:
        # torch is only half imported here, so `torch.compiler` is looked up at each step.
        torch = module.torch

        def before(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and not self._paused:
                self._count_of(optimizer).begun = True

        def after(optimizer: Any, _args: Any, _kwargs: Any) -> None:
            if not torch.compiler.is_compiling() and not self._paused:
                count = self._count_of(optimizer)
                if count.begun:
                    count.begun = False
                    count.taken += 1

        make = module.Optimizer.__init__

        @functools.wraps(make)
        def make_and_remember(optimizer: Any, *args: Any, **kwargs: Any) -> None:
            make(optimizer, *args, **kwargs)
            # An optimizer that cannot be watched is still the script's optimizer.
            with contextlib.suppress(TypeError):
                self._made.append((weakref.ref(optimizer), _version(optimizer)))

        module.Optimizer.__init__ = make_and_remember
        module.register_optimizer_step_pre_hook(before)
        module.register_optimizer_step_post_hook(after)

    def _watch_broadcast(self, module: Any) -> None:
        broadcast = module.broadcast_optimizer_state

        @functools.wraps(broadcast)
        def broadcast_uncounted(*args: Any, **kwargs: Any) -> Any:
            self._paused = True
            try:
                return broadcast(*args, **kwargs)
            finally:
                self._paused = False

        module.broadcast_optimizer_state = broadcast_uncounted

    def _count_of(self, optimizer: Any) -> _Count:
        count = self._by_id.get(id(optimizer))
        if count is None or count.optimizer() is not optimizer:
            count = self._by_id[id(optimizer)] = _Count(optimizer=weakref.ref(optimizer))
            self._counts.append(count)
        return count


def _version(optimizer: Any) -> int:
    try:
        return int(optimizer.param_groups[0]["params"][0]._version)
    except Exception:
        # An unusual optimizer, or a parameter without a version, as in inference mode.
        return 0
