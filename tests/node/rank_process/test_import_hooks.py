"""Hooks behind imports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from horovod_node.rank_process.import_hooks import AfterImport


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a module inside, as optimizers lie in Keras."""
    name = f"watched_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "optimizers.py").write_text("class Optimizer: pass")
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    yield name
    sys.meta_path[:] = before
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_hook_runs_once_after_the_module_did(package: str) -> None:
    """The hook sees the finished module; importing the package alone, or the module again, does not call it."""
    # GIVEN
    seen: list[str] = []
    AfterImport({f"{package}.optimizers": lambda module: seen.append(module.Optimizer.__name__)}).install()
    # WHEN
    __import__(package)
    before = list(seen)
    __import__(f"{package}.optimizers")
    __import__(f"{package}.optimizers")
    # THEN
    assert [before, seen] == [[], ["Optimizer"]]


def test_hook_of_a_module_that_is_there_already_runs_at_once(package: str) -> None:
    """A script may be started by something that imported Keras before."""
    # GIVEN
    __import__(f"{package}.optimizers")
    seen: list[ModuleType] = []
    # WHEN
    AfterImport({f"{package}.optimizers": seen.append}).install()
    # THEN
    assert seen == [sys.modules[f"{package}.optimizers"]]


def test_missing_module_is_missing_as_ever(package: str) -> None:
    """A hook for a module that is not installed changes nothing."""
    # GIVEN
    AfterImport({f"{package}.no_such": lambda _: None}).install()
    # WHEN / THEN
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{package}.no_such'"):
        __import__(f"{package}.no_such")


def test_hook_that_fails_leaves_the_import_as_it_was(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A release of Keras that looks different trains all the same, and the log says what was not watched."""
    # GIVEN
    AfterImport({f"{package}.optimizers": lambda module: module.NoSuchClass}).install()  # type: ignore[dict-item]
    # WHEN
    module = __import__(f"{package}.optimizers", fromlist=["Optimizer"])
    # THEN
    assert module.Optimizer.__name__ == "Optimizer"
    assert f"does not know this {package}.optimizers" in capsys.readouterr().err
