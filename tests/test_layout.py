"""The repository's layout, where a slip breaks something far away."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = (
    REPOSITORY / "constructs" / "cdk_horovod",
    REPOSITORY / "client" / "horovod_client",
    REPOSITORY / "training_image" / "horovod_node",
    REPOSITORY / "local_cloud" / "horovod_local",
    REPOSITORY / "stacks",
)
LONGEST_FILE = 400
# The one list of the names that cross process borders: it is to be read in one place.
LISTS = {"contract.py"}


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imported_packages(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_source_root_is_no_package() -> None:
    """The folder constructs/ has no __init__.py, which would hide PyPI's package of that name."""
    assert not (REPOSITORY / "constructs" / "__init__.py").exists()


def test_constructs_is_the_installed_package() -> None:
    """`import constructs` finds the installed package, not the folder."""
    # WHEN
    spec = find_spec("constructs")

    # THEN
    assert spec is not None
    assert spec.origin is not None
    assert "site-packages" in Path(spec.origin).parts


def test_tests_are_no_packages() -> None:
    """No folder of tests is a package, nor named like one that is imported."""
    tests = REPOSITORY / "tests"
    assert [*tests.rglob("__init__.py")] == []
    assert not (tests / "constructs").exists()


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_files_stay_short(package: Path) -> None:
    """A file that needs more than 400 lines holds more than one concept."""
    # WHEN
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines())
        for path in modules(package)
        if path.name not in LISTS
    }

    # THEN
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_contract_needs_the_standard_library_only() -> None:
    """The shared contract can be imported wherever Python runs."""
    contract = REPOSITORY / "training_image" / "horovod_node" / "contract.py"
    assert set(imported_packages(contract)) - sys.stdlib_module_names == set()


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("client", {"aws_cdk", "cdk_horovod", "constructs", "horovod_local"}),
        ("training_image", {"aws_cdk", "cdk_horovod", "constructs", "horovod_client", "horovod_local"}),
        ("constructs", {"boto3", "botocore", "horovod", "horovod_client", "horovod_local"}),
    ],
)
def test_packages_keep_apart(folder: str, forbidden: set[str]) -> None:
    """Client and node run without the CDK, and synthesis calls no AWS API."""
    # WHEN
    found = {
        str(path.relative_to(REPOSITORY)): sorted(forbidden & set(imported_packages(path)))
        for path in modules(REPOSITORY / folder)
    }

    # THEN
    assert {path: names for path, names in found.items() if names} == {}
