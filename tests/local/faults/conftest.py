"""One lab for all tests of this folder: deployed once, healed after every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment
from lab import SCHEDULE_SPEED, Lab, synthesise_lab
from phases import PHASES
from strikes import STRIKES
from table import TABLE

from horovod_local import LocalCloud

CELLS = "faults/cells"
"""Key in pytest's cache."""


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    out = tmp_path_factory.mktemp("lab") / "cdk.out"
    synthesise_lab(out)
    with LocalCloud(home=tmp_path_factory.mktemp("lab-cloud"), schedule_speed=SCHEDULE_SPEED) as cloud:
        cloud.deploy(out, tell=lambda _line: None)
        yield Lab(app=Deployment(cloud=cloud))


@pytest.fixture
def lab(deployed: Lab) -> Iterator[Lab]:
    """The lab without faults, before and after."""
    deployed.heal()
    yield deployed
    deployed.heal()
    # It looks every few seconds here: the tests that come after these would pay for it.
    deployed.switch("reaper", on=False)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    Write the table where FAULT_MATRIX says, if every test of the session passed.

    What a session saw is kept for one that repeats a part: `pytest --last-failed`, `pytest -k …`.
    """
    place, cache = os.environ.get("FAULT_MATRIX"), session.config.cache
    if not place or cache is None:
        return
    if session.config.getoption("lf") or session.config.getoption("keyword"):
        TABLE.take(cache.get(CELLS, {}))
    cache.set(CELLS, TABLE.to_json())
    if not session.testsfailed:
        text = TABLE.markdown(phases=[phase.name for phase in PHASES], strikes=[strike.name for strike in STRIKES])
        Path(place).write_text(text)
