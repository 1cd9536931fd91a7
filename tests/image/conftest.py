"""Fixtures of the slow lane: a fresh instance, and the training image built for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.image.buildah import BuiltImage, built
from support.image.debian import base_root, wheel_folders
from support.image.instance import Instance
from support.image.profile import PROFILES, Profile
from support.synthesis import REPOSITORY

TRAINING_IMAGE = REPOSITORY / "training_image"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    """A fresh instance."""
    return Instance.create(base_root(), tmp_path)


@pytest.fixture(scope="session", params=PROFILES, ids=lambda profile: profile.name)
def profile(request: pytest.FixtureRequest) -> Profile:
    """Each profile of the Dockerfile's table, one after the other."""
    chosen: Profile = request.param
    return chosen


@pytest.fixture(scope="session")
def training_image(profile: Profile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuiltImage]:
    """The training image without GPUs, Horovod compiled in it; minutes the first time, then from layers."""
    folder = tmp_path_factory.mktemp("image")
    volumes = {}
    if "+" in profile.found:
        # A build that the index does not have.
        folders = wheel_folders()
        if not folders:
            pytest.skip(f"pip knows no folder (find-links) with the wheels of {profile.requirements}")
        settings = folder / "pip.conf"
        settings.write_text(f"[global]\nfind-links = {' '.join(map(str, folders))}\n")
        volumes = {settings: "/etc/xdg/pip/pip.conf", **{each: str(each) for each in folders}}
    log = folder / "build.log"
    with built(TRAINING_IMAGE, name=profile.name, arguments=profile.arguments, volumes=volumes, log=log) as image:
        yield image
