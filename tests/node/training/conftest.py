"""Fixtures for the tests of PyTorch: its interpreter, and data to train with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from support.node.interpreters import torch_python


@pytest.fixture(scope="module")
def python() -> str:
    """Give the interpreter that has PyTorch; the one that runs the tests has TensorFlow."""
    return torch_python()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with the data channel."""
    folder, found = tmp_path_factory.mktemp("digits"), load_digits()
    np.savez(folder / "digits.npz", images=(found.images / 16).astype("float32"), labels=found.target)
    return folder
