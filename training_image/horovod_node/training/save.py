"""Saves the trained model in `SM_MODEL_DIR`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from horovod_node.training import ring


def save(model: Any, name: str = "model.keras") -> Path:
    """
    Save *model* as `SM_MODEL_DIR/name`, on rank 0 only, since all ranks have the same weights. Return the path.

    Without `SM_MODEL_DIR`, on a laptop, the model is saved in the working folder.
    """
    path = Path(os.environ.get("SM_MODEL_DIR", ".")) / name
    if ring.rank() == 0:
        model.save(path)
    return path
