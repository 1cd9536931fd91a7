"""One lab for all tests of this folder: deployed once, healed after every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.faults.cases import FAULT_CASES
from support.faults.lab import Lab, deployed_lab
from support.faults.matrix_table import TABLE
from support.faults.phases import PHASES

CELLS = "faults/cells"
"""Key in pytest's cache, and in what a worker of pytest-xdist hands on."""


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with deployed_lab(tmp_path_factory) as lab:
        yield lab


@pytest.fixture
def lab(deployed: Lab) -> Iterator[Lab]:
    """The lab without faults, before and after."""
    deployed.heal()
    yield deployed
    deployed.heal()
    # It looks every few seconds here: the tests that come after these would pay for it.
    deployed.switch("reaper", on=False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker saw, where pytest-xdist has several."""
    TABLE.take(getattr(node, "workeroutput", {}).get(CELLS, {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """
    Write the table where FAULT_MATRIX says, if every test of the session passed; a worker hands on what it saw.

    What a session saw is kept for one that repeats a part: `pytest --last-failed`, `pytest -k …`.
    """
    handed_on = getattr(session.config, "workeroutput", None)
    if handed_on is not None:
        handed_on[CELLS] = TABLE.to_json()
        return
    place, cache = os.environ.get("FAULT_MATRIX"), getattr(session.config, "cache", None)
    if not place or cache is None:
        return
    if session.config.getoption("lf") or session.config.getoption("keyword"):
        TABLE.take(cache.get(CELLS, {}))
    cache.set(CELLS, TABLE.to_json())
    if not session.testsfailed:
        text = TABLE.markdown(phases=[phase.name for phase in PHASES], faults=[fault.name for fault in FAULT_CASES])
        Path(place).write_text(text)
