"""The ring as a PyTorch training sees it: Horovod's, or one process alone where there is no Horovod."""

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
started, rank, size = _ring.started, _ring.rank, _ring.size
is_elastic, is_ring, form_anew = _ring.is_elastic, _ring.is_ring, _ring.form_anew


def start(*, seed: int | None = None) -> torch.device:
    """
    Join the ring and take this rank's GPU. Comes before anything that uses a GPU.

    Args:
        seed:
            Of everything random (Python, NumPy, PyTorch), on all ranks alike.
            Default: the script's own seeds, if it sets any.

    Returns:
        The device that this rank trains on: its GPU, which is PyTorch's current one from now on, or the CPU.
    """
    if hvd is not None:
        hvd.init()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        # Fewer are seen than there are ranks here when each process was given its own by CUDA_VISIBLE_DEVICES.
        device = torch.device("cuda", _ring.local_rank() % torch.cuda.device_count())
        torch.cuda.set_device(device)
    if seed is not None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
    return device


def is_lost_ring(error: BaseException) -> bool:
    """Whether *error* says that ranks were lost, and not that something is wrong with this one."""
    if hvd is None:
        return False
    from horovod.common.exceptions import HorovodInternalError

    # Every operation of Horovod for PyTorch raises this one, but it does so for mismatched tensors, too.
    return isinstance(error, HorovodInternalError) and "Mismatched" not in str(error)


def gather(row: Sequence[float], *, name: str) -> np.ndarray[Any, Any]:
    """Give everyone's *row*, in the order of ranks; all rows are of one length."""
    mine = torch.tensor([list(row)], dtype=torch.float64)
    if size() == 1:
        return np.asarray(mine)
    return np.asarray(hvd.allgather(mine, name=f"HorovodTraining.{name}"))


def broadcast(tree: Any, *, root: int) -> Any:
    """
    Give *root*'s tree of dictionaries, lists, tensors on the CPU and other values; elsewhere *tree* is not looked at.

    Tensors travel as bytes, of any type and each by itself; what else there is, pickled, in one go.
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
    """Put a place where each tensor is, and the tensors into a list."""
    if isinstance(tree, torch.Tensor):
        tensors.append(tree.contiguous())
        return _Place(len(tensors) - 1, tree)
    return _map(tree, lambda each: _plan(each, tensors))


def _allot(plan: Any, tensors: list[torch.Tensor]) -> None:
    """Make an empty tensor for each place, in their order."""
    if isinstance(plan, _Place):
        tensors.append(torch.empty(plan.shape, dtype=plan.dtype))
    else:
        _map(plan, lambda each: _allot(each, tensors))


def _fill(plan: Any, tensors: list[torch.Tensor]) -> Any:
    """Put each tensor into its place."""
    return tensors[plan.number] if isinstance(plan, _Place) else _map(plan, lambda each: _fill(each, tensors))


def _map(tree: Any, change: Any) -> Any:
    """Change the members of a container, and give anything else as it is."""
    if isinstance(tree, dict):
        return {name: change(each) for name, each in tree.items()}
    if isinstance(tree, list):
        return [change(each) for each in tree]
    if type(tree) is tuple:
        return tuple(change(each) for each in tree)
    return tree


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
