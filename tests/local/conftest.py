"""The local cloud for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from horovod_local import Faults, LocalCloud


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One local cloud for the whole session; tests name their own resources in it."""
    with LocalCloud(home=tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud


@pytest.fixture
def faults(cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The cloud, to put faults into; they end with the test."""
    yield cloud
    cloud.set_faults(Faults())
