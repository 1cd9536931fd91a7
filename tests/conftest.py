"""What all tests share: none reaches AWS, and properties are tried in the same way on every machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# Assertions of the support modules explain themselves as those of tests do.
pytest.register_assert_rewrite("support")

REGION = "eu-west-1"

# A loaded machine is slow: that is no failure of a property. And what fails, fails because something has changed: every
# run tries the same examples.
settings.register_profile("tests", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-snapshots` accepts what the app synthesises now (`make snapshots`)."""
    parser.addoption("--update-snapshots", action="store_true", help="write tests/snapshots anew")


@pytest.fixture(scope="session", autouse=True)
def no_real_aws() -> Iterator[None]:
    """
    Point every AWS client of the session at a closed port of this machine.

    A test that serves AWS's APIs itself, as the local cloud does, sets `AWS_ENDPOINT_URL` for its own clients.
    """
    with pytest.MonkeyPatch.context() as patch, socket.socket() as closed:
        # Bound but never listening: no other process can take the port, and connecting to it is refused at once.
        closed.bind(("127.0.0.1", 0))
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_SESSION_TOKEN": "testing",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }.items():
            patch.setenv(name, value)
        yield
