"""The corrections as a whole."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from horovod_local import LocalCloudError, corrections
from horovod_local.corrections.registry import Correction
from support.synthesis import REPOSITORY


def test_the_installed_moto_is_the_pinned_one() -> None:
    """The corrections' release of moto is the one installed, and the one that the distribution asks for."""
    # WHEN
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")

    # THEN
    assert importlib.metadata.version("moto") == corrections.MOTO_VERSION
    assert f'"moto[all,server]=={corrections.MOTO_VERSION}"' in project


def test_fails_with_another_moto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another release of moto is refused before anything is changed, saying what to install."""
    # GIVEN
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "5.2.6")

    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=r"needs moto 5\.2\.5, .* but 5\.2\.6 is installed: pip install"):
        corrections.apply()


def test_every_correction_has_a_contract_test() -> None:
    """Each correction has a test of its name in this folder, against AWS's behaviour."""
    # GIVEN
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))

    # WHEN
    names = [item.name for item in corrections.ALL]
    untested = [name for name in names if not re.search(rf"^def test_{name}\(", tests, re.MULTILINE)]

    # THEN
    assert untested == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize("item", corrections.ALL, ids=lambda item: item.name)
def test_every_correction_names_its_deviation(item: Correction) -> None:
    """Each correction says in one sentence what moto does and what AWS does."""
    # THEN
    assert re.fullmatch(r"moto [a-z].+[^.]; AWS [a-z].+[^.]", item.deviation)
