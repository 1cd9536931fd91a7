"""Horovod's optimizer for PyTorch, with a learning rate that follows the ring's size."""

from __future__ import annotations

from typing import Any

import torch

from horovod_node.torch_training import ring
from horovod_node.training_base.learning_rate import Rule, rule_of


def distributed(
    optimizer: torch.optim.Optimizer, *, scale_learning_rate: str | Rule = "linear", **arguments: Any
) -> torch.optim.Optimizer:
    """
    Return Horovod's `DistributedOptimizer` of *optimizer*, which averages gradients over all ranks.

    Its `param_groups` keep the learning rate of one GPU: schedulers read and set it as usual. During a step, the
    learning rate is multiplied by a factor that follows the ring's size.

    Args:
        optimizer: Any optimizer of PyTorch. Use only the returned one from then on.
        scale_learning_rate:
            "linear": n ranks multiply the learning rate by n, because their batch is n times as large. "sqrt": by the
            square root of n, which is often better with Adam and a large n. "none": it is not scaled. Or a function of
            the ring's size that returns the factor.
            Default: "linear".
        arguments: For `DistributedOptimizer`: `named_parameters`, `backward_passes_per_step`, `compression`, ….

    Raises:
        TypeError: If *optimizer* is not an optimizer of PyTorch.
        ValueError: If there is no rule *scale_learning_rate*, or the optimizer is distributed already.
        RuntimeError: If `start` was not called before.
    """
    rule = rule_of(scale_learning_rate)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"'optimizer' must be an optimizer of PyTorch, got {type(optimizer).__name__}")
    if is_distributed(optimizer):
        raise ValueError("the optimizer is distributed already")
    if not ring.started():
        raise RuntimeError("call training.start() before training.distributed()")
    if ring.hvd is not None:
        optimizer = ring.hvd.DistributedOptimizer(optimizer, **arguments)
    scale = _Scale(rule)
    optimizer.register_step_pre_hook(scale.apply)
    optimizer.register_step_post_hook(scale.undo)
    return optimizer


def is_distributed(optimizer: Any) -> bool:
    """Whether Horovod averages the optimizer's gradients."""
    return hasattr(optimizer, "skip_synchronize")


class _Scale:
    """
    Scales the learning rate during a step.

    PyTorch calls the hooks twice in a step of Horovod's optimizer, and not at all after a step that fails because the
    ring breaks. So a scaled value is recognised by its identity; a state that was loaded since has other objects.
    """

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._applied: list[tuple[dict[str, Any], Any, Any]] = []

    def apply(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.undo(optimizer, args, kwargs)
        factor = self._rule(ring.size())
        if factor == 1.0:
            return
        for group in optimizer.param_groups:
            scaled = group["lr"] * factor
            self._applied.append((group, group["lr"], scaled))
            group["lr"] = scaled

    def undo(self, _optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        for group, own, scaled in self._applied:
            if group["lr"] is scaled:
                group["lr"] = own
        self._applied.clear()
