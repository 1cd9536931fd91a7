"""Saves the trained model in `SM_MODEL_DIR`."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from horovod_node.torch_training import ring


def save(model: torch.nn.Module, name: str = "model.pt") -> Path:
    """
    Save *model*'s `state_dict` as `SM_MODEL_DIR/name`, on rank 0 only, since all ranks have the same weights.

    Tensors are saved as CPU tensors, so that the file loads without a GPU. Without `SM_MODEL_DIR`, on a laptop, the
    model is saved in the working folder. Returns the path.
    """
    path = Path(os.environ.get("SM_MODEL_DIR", ".")) / name
    if ring.rank() == 0:
        state = model.state_dict()
        torch.save(
            {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}, path
        )
    return path
