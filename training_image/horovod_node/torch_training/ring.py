"""The ring of a PyTorch training: Horovod's, or a single process without Horovod."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from horovod_node.training_base.horovod_ring import HorovodRing

try:
    import horovod.torch as hvd
except ImportError:  # a laptop
    if "HOROVOD_RANK" in os.environ:
        raise
    hvd = None

__all__ = [
    "broadcast",
    "form_anew",
    "gather",
    "hvd",
    "is_elastic",
    "is_lost_ring",
    "is_ring",
    "rank",
    "size",
    "start",
    "started",
]


_ring: Final = HorovodRing(hvd)
started = _ring.started
rank = _ring.rank
size = _ring.size
is_elastic, is_ring, form_anew = _ring.is_elastic, _ring.is_ring, _ring.form_anew


def start(*, seed: int | None = None) -> torch.device:
    """
    Join the ring and select this rank's GPU. Call it before anything that uses a GPU.

    Args:
        seed:
            Seed of all random number generators (Python, NumPy, PyTorch), the same on all ranks.
            Default: the script's own seeds, if it sets any.

    Returns:
        The device that this rank trains on: its GPU, which is PyTorch's current one from now on, or the CPU.
    """
    if hvd is not None:
        hvd.init()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Modulo: if CUDA_VISIBLE_DEVICES gives each process its own GPU, it sees fewer GPUs than the node has ranks.
        device = torch.device("cuda", _ring.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
    return device


def is_lost_ring(error: BaseException) -> bool:
    """Whether *error* means that ranks were lost, and not that this rank failed."""
    if hvd is None:
        return False
    from horovod.common.exceptions import HorovodInternalError

    # All operations of Horovod for PyTorch raise this error, but also for mismatched tensors.
    return isinstance(error, HorovodInternalError) and "Mismatched" not in str(error)


def gather(row: Sequence[float], *, name: str) -> np.ndarray[Any, Any]:
    """Return the rows of all ranks, in the order of ranks; all must have the same length."""
    mine = torch.tensor([list(row)], dtype=torch.float64)
    if size() == 1:
        return np.asarray(mine)
    return np.asarray(hvd.allgather(mine, name=f"HorovodTraining.{name}"))


def broadcast(tree: Any, *, root: int) -> Any:
    """
    Return *root*'s tree of dictionaries, lists, CPU tensors and other values; on other ranks *tree* is ignored.

    Each tensor is broadcast as bytes; everything else is pickled and broadcast at once.
    """
    if size() == 1:
        return tree
    tensors: list[torch.Tensor] = []
    plan = hvd.broadcast_object(_plan(tree, tensors) if rank() == root else None, root, name="HorovodState.plan")
    if rank() != root:
        _allot(plan, tensors)
    handles = [
        hvd.broadcast_async_(_bytes(tensor), root, name=f"HorovodState.{number}")
        for number, tensor in enumerate(tensors)
        if tensor.numel()
    ]
    for handle in handles:
        hvd.synchronize(handle)
    return tree if rank() == root else _fill(plan, tensors)


class _Place:
    """Where a tensor of a tree was."""

    def __init__(self, number: int, tensor: torch.Tensor) -> None:
        self.number, self.shape, self.dtype = number, tuple(tensor.shape), tensor.dtype


def _plan(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """Replace each tensor with a place, and append the tensors to a list."""
    if isinstance(tree, torch.Tensor):
        tensors.append(tree.contiguous())
        return _Place(len(tensors) - 1, tree)
    return _map(tree, lambda each: _plan(each, tensors))


def _allot(plan: Any, tensors: list[torch.Tensor]) -> None:
    """Append an empty tensor for each place, in order."""
    if isinstance(plan, _Place):
        tensors.append(torch.empty(plan.shape, dtype=plan.dtype))
    else:
        _map(plan, lambda each: _allot(each, tensors))


def _fill(plan: Any, tensors: list[torch.Tensor]) -> Any:
    """Put each tensor into its place."""
    return tensors[plan.number] if isinstance(plan, _Place) else _map(plan, lambda each: _fill(each, tensors))


def _map(tree: Any, change: Any) -> Any:
    """Apply *change* to the members of a container; return anything else unchanged."""
    if isinstance(tree, dict):
        return {name: change(each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [change(each) for each in tree]
    if type(tree) is tuple:
        return tuple(change(each) for each in tree)
    return tree


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
