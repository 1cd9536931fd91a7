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
CONTRACT = REPOSITORY / "training_image" / "horovod_node" / "contract"
LONGEST_FILE = 400


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(module: Path) -> Iterator[tuple[str, str]]:
    """Give every module that *module* imports, and the name that it takes from it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def imported_packages(module: Path) -> set[str]:
    return {name.partition(".")[0] for name, _ in imports(module)}


def public_names(module: Path) -> Iterator[str]:
    """Give the names that *module* defines, without those that it imports."""
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            names = [target.id for target in targets]
        yield from (name for name in names if not name.startswith("_"))


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
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in modules(package)}

    # THEN
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_contract_needs_the_standard_library_only() -> None:
    """The shared contract can be imported wherever Python runs, and takes nothing from the rest of the node."""
    # WHEN
    taken = {module for path in modules(CONTRACT) for module, _ in imports(path)}

    # THEN
    others = {module for module in taken if module.partition(".")[0] not in sys.stdlib_module_names}
    assert {module for module in others if not module.startswith("horovod_node.contract.")} == set()


def test_contract_gives_every_name_of_its_files() -> None:
    """`from horovod_node import contract` gives every name that a file of the contract defines, and each one once."""
    # WHEN
    defined = [name for path in modules(CONTRACT) if path.name != "__init__.py" for name in public_names(path)]

    # THEN
    given = [name for module, name in imports(CONTRACT / "__init__.py") if module.startswith("horovod_node.")]
    assert sorted(defined) == sorted(given)
    assert sorted(set(given)) == sorted(given)


@pytest.mark.parametrize("folder", ["constructs", "client", "local_cloud", "stacks"])
def test_only_the_contract_crosses_borders(folder: str) -> None:
    """What runs elsewhere than the node takes from the node's package the contract as a whole, and nothing else."""
    # WHEN
    taken = {
        str(path.relative_to(REPOSITORY)): {
            (module, name) for module, name in imports(path) if module.partition(".")[0] == "horovod_node"
        }
        for path in modules(REPOSITORY / folder)
    }

    # THEN
    assert {path: names for path, names in taken.items() if names - {("horovod_node", "contract")}} == {}


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
        str(path.relative_to(REPOSITORY)): sorted(forbidden & imported_packages(path))
        for path in modules(REPOSITORY / folder)
    }

    # THEN
    assert {path: names for path, names in found.items() if names} == {}
