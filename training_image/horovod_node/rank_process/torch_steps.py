"""
Steps of PyTorch's optimizers, counted as they are taken.

PyTorch calls hooks of all optimizers around each `step()`. Ours count, and touch neither optimizer nor gradients:

- Horovod's `DistributedOptimizer` is a subclass made at run time, and PyTorch calls the hooks around its `step()` and
  once more around the one that it inherits. What counts is a return that follows a call, so that both are one step.
- `hvd.broadcast_optimizer_state` takes a step with gradients of zero to make the optimizer's state. It is no training.
- While `torch.compile` traces a step, the hooks leave at once and so add nothing to the graph: no step is counted that
  is compiled. As long as none is counted at all, it is seen from the parameters' versions, which every change raises,
  that the training goes on. How far it is, such a script says itself: `horovod_node.steps.report(step)`.
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
"""So often a script may change parameters between making the optimizer and training: to initialise, or to load them."""


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
        """In the order of their first steps. It only grows, so that another thread may read it."""
        self._by_id: dict[int, _Count] = {}
        self._made: list[tuple[weakref.ref[Any], int]] = []
        """Optimizers, with the version that their first parameter had."""
        self._paused = False

    def hooks(self) -> dict[str, Callable[[ModuleType], None]]:
        """Give what must happen after the import of which module, so that no optimizer is missed."""
        return {"torch.optim.optimizer": self._watch_steps, "horovod.torch.functions": self._watch_broadcast}

    def read(self) -> list[int]:
        """Give the steps of each optimizer that has taken any."""
        return [count.taken for count in list(self._counts)]

    def changes(self) -> int:
        """Give how often a training whose steps are compiled has changed its parameters; 0 if steps are counted."""
        if self._counts:
            return 0
        made = [(optimizer(), version) for optimizer, version in list(self._made)]
        changes = sum(_version(optimizer) - version for optimizer, version in made if optimizer is not None)
        return max(0, changes - _CHANGES_BEFORE_TRAINING)

    def _watch_steps(self, module: Any) -> None:
        # Looked for in it at each step: now it is only half imported.
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
        # An optimizer of its own kind, or a parameter without a version, as in inference mode.
        return 0
