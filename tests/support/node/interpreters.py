"""
Interpreters with other frameworks than this one's, each with Horovod compiled for it.

Those with Keras 3 are made on first use and kept in the cache; `make test-slow` makes the one with PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

import horovod_node

IMAGE: Final = Path(horovod_node.__file__).parents[1]
BUILD: Final = IMAGE / "build_horovod.sh"
BUILD_REQUIREMENTS: Final = IMAGE / "requirements-build.txt"

NEWER: Final = "2.18.1"
"""The TensorFlow of the image's `newer` profile; its packages are the image's own, checked by their digests."""
OTHERS: Final[Mapping[str, tuple[str, ...]]] = {
    tensorflow: (f"tensorflow-cpu=={tensorflow}", "keras==3.15.1") for tensorflow in ("2.19.1", "2.20.0", "2.21.0")
}
"""TensorFlow to what is installed beside what every profile has."""


def keras_3_python(tensorflow: str) -> str:
    """
    Give the Python with this TensorFlow and Keras 3, without the switch to Keras 2.

    HOROVOD_KERAS3_PYTHON names the one of `NEWER` when it is already there. Making one takes some ten minutes, once.
    """
    named = os.environ.get("HOROVOD_KERAS3_PYTHON")
    if named and tensorflow == NEWER:
        return named
    arguments = _arguments(tensorflow)
    files = [Path(argument) for argument in arguments if argument.startswith("/")]
    parts = [path.read_bytes() for path in (*files, BUILD_REQUIREMENTS, BUILD)]
    key = hashlib.sha256(b"".join(parts) + " ".join(OTHERS.get(tensorflow, ())).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdk-horovod"
    folder, python = cache / f"keras3-{key}", cache / f"keras3-{key}" / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        _install(python, *arguments)
        _install(python, "--require-hashes", "--requirement", str(BUILD_REQUIREMENTS))
        subprocess.run(["bash", str(BUILD), str(folder / "wheels"), str(python)], check=True)
        _install(python, "--no-deps", *map(str, (folder / "wheels").glob("*.whl")))
        ready.touch()
    return str(python)


def _arguments(tensorflow: str) -> tuple[str, ...]:
    if tensorflow == NEWER:
        return ("--require-hashes", "--requirement", str(IMAGE / "requirements-newer-cpu.txt"))
    return ("--requirement", str(IMAGE / "requirements-common.in"), *OTHERS[tensorflow])


def _install(python: Path, *arguments: str) -> None:
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


def torch_python() -> str:
    """Give the Python with PyTorch, which HOROVOD_TORCH_PYTHON names; fails the test where it names none."""
    named = os.environ.get("HOROVOD_TORCH_PYTHON")
    if not named:
        pytest.fail("HOROVOD_TORCH_PYTHON names no Python with PyTorch and Horovod: run make test-slow", pytrace=False)
    return named
