"""The local cloud for all tests of this folder, and a guard against any other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from horovod_local import Faults, LocalCloud

NOWHERE = "http://127.0.0.1:9"
"""The discard port: a client that was not given the local cloud's address gets no answer at all."""


@pytest.fixture(scope="session", autouse=True)
def no_real_aws() -> Iterator[None]:
    """Take away every way to a real account from this process and all that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", NOWHERE)
        patch.setenv("AWS_ACCESS_KEY_ID", "local")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "local")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
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
