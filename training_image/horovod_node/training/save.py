"""The trained model's way to where the run's result is expected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from horovod_node.training import ring


def save(model: Any, name: str = "model.keras") -> Path:
    """
    Save *model* as `SM_MODEL_DIR/name`, on rank 0 alone, and give the path.

    All ranks hold the same weights, so one of them is enough. Where there is no `SM_MODEL_DIR`, on a laptop, the model
    goes to the working folder.
    """
    path = Path(os.environ.get("SM_MODEL_DIR", ".")) / name
    if ring.rank() == 0:
        model.save(path)
    return path
