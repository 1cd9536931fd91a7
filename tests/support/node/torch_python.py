"""The interpreter with PyTorch, and Horovod compiled for it."""

from __future__ import annotations

import os

import pytest


def torch_python() -> str:
    """Give it; `make test-slow` makes it and names it."""
    named = os.environ.get("HOROVOD_TORCH_PYTHON")
    if not named:
        pytest.fail("HOROVOD_TORCH_PYTHON names no Python with PyTorch and Horovod: run make test-slow", pytrace=False)
    return named
