"""The trained model's way to where the run's result is expected."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from horovod_node.torch_training import ring


def save(model: torch.nn.Module, name: str = "model.pt") -> Path:
    """
    Save *model*'s `state_dict` as `SM_MODEL_DIR/name`, on rank 0 alone, and give the path.

    All ranks hold the same weights, so one of them is enough. They are saved as on the CPU, so that the file loads on a
    machine without a GPU. Where there is no `SM_MODEL_DIR`, on a laptop, the model goes to the working folder.
    """
    path = Path(os.environ.get("SM_MODEL_DIR", ".")) / name
    if ring.rank() == 0:
        state = model.state_dict()
        torch.save(
            {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}, path
        )
    return path
