"""The local cloud for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from horovod_local import Faults, LocalCloud

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the local cloud; `make test-fast` leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.local)


@pytest.fixture(autouse=True, scope="module")
def cache_of_prices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep local clouds' prices out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
