"""The repository's layout, where a slip breaks something far away."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
SUPPORT = REPOSITORY / "tests" / "support"
LONGEST_FILE = 400
FULLEST_ROOM = 20


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(module: Path, *, at_run_time: bool = False) -> Iterator[tuple[str, str]]:
    """Give every module that *module* imports, and the name that it takes from it; or those for types alone not."""
    tree = ast.parse(module.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
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


def test_tests_do_not_import_each_other() -> None:
    """What two modules of tests need is in tests/support, or a fixture of their folder."""
    # WHEN
    tests = {path.stem for path in modules(REPOSITORY / "tests") if path.name.startswith(("test_", "conftest"))}
    taken = {
        (str(path.relative_to(REPOSITORY)), module)
        for path in modules(REPOSITORY / "tests")
        for module, _ in imports(path)
        if module.rpartition(".")[2] in tests
    }

    # THEN
    assert taken == set()


def test_support_of_tests_has_rooms_of_a_size() -> None:
    """A folder of tests/support has 3 to 20 modules, each of at most 400 lines."""
    # WHEN
    lengths = {path.relative_to(SUPPORT): len(path.read_text().splitlines()) for path in modules(SUPPORT)}
    sizes = Counter(path.parent for path in lengths)

    # THEN
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}
    assert {folder: size for folder, size in sizes.items() if not 3 <= size <= FULLEST_ROOM} == {}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_files_stay_short(package: Path) -> None:
    """A file that needs more than 400 lines holds more than one concept."""
    # WHEN
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in modules(package)}

    # THEN
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("package", PACKAGES[:-1], ids=lambda path: path.name)
def test_rooms_have_a_size(package: Path) -> None:
    """A folder with more modules than fit on a screen holds several rooms; one with two is no room."""
    # WHEN
    folders = {path.parent for path in modules(package) if path.parent != package} | {package}
    sizes = {str(folder.relative_to(REPOSITORY)): len([*folder.glob("*.py")]) - 1 for folder in folders}

    # THEN
    assert {folder: size for folder, size in sizes.items() if not 3 <= size <= FULLEST_ROOM} == {}


@pytest.mark.parametrize("package", PACKAGES[:-1], ids=lambda path: path.name)
def test_rooms_do_not_import_in_circles(package: Path) -> None:
    """The rooms of a package can be put in an order in which each imports only from those before it."""
    # GIVEN each folder of the package, and each module beside them, with those that it imports from
    needed: dict[str, set[str]] = {}
    for path in modules(package):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":  # the package's public face gathers from all
            continue
        taken = {
            target.removeprefix(f"{package.name}.").partition(".")[0]
            for module, name in imports(path, at_run_time=True)
            for target in [f"{module}.{name}" if module == package.name else module]
            if target.startswith(f"{package.name}.")
        }
        needed.setdefault(room, set()).update(taken - {room})

    # WHEN / THEN
    graph = {room: rooms & needed.keys() for room, rooms in needed.items()}
    assert [*TopologicalSorter(graph).static_order()] != []


def test_a_users_process_loads_little_of_the_agent() -> None:
    """What runs inside a user's process imports the contract and its own room, and nothing else of the agent."""
    # WHEN
    room = REPOSITORY / "training_image" / "horovod_node" / "rank_process"
    taken = {module for path in modules(room) for module, _ in imports(path) if module.startswith("horovod_node")}

    # THEN
    allowed = ("horovod_node.contract", "horovod_node.rank_process")
    assert {module for module in taken if module != "horovod_node" and not module.startswith(allowed)} == set()


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
