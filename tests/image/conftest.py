"""Fixtures of the slow lane: a fresh instance, and the training image built for real."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.buildah import BuiltImage, built
from image.debian import base_root
from image.instance import Instance

TRAINING_IMAGE = Path(__file__).parents[2] / "training_image"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """A fresh instance."""
    return Instance.create(base_root(), tmp_path)


@pytest.fixture(scope="session")
def training_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltImage]:
    """The training image in its CPU profile, Horovod compiled in it; minutes the first time, then from layers."""
    arguments = {"REQUIREMENTS": "requirements-cpu.txt", "WITH_NCCL": "0"}
    log = tmp_path_factory.mktemp("image") / "build.log"
    begun = time.monotonic()
    with built(TRAINING_IMAGE, arguments=arguments, log=log) as image:
        print(f"training image: {image.bytes / 1e6:.0f} MB, built in {time.monotonic() - begun:.0f} s")
        yield image
