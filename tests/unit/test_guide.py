"""The guide describes what exists: its commands parse, its links lead to files, its errors are the contract's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from horovod_client.cli import PROGRAM, commands
from horovod_node import contract
from support.synthesis import REPOSITORY

GUIDE = REPOSITORY / "docs" / "guide"
PAGES = [REPOSITORY / "README.md", *sorted(GUIDE.glob("*.md"))]
ELLIPSIS = "…"


def commands_of(text: str) -> list[str]:
    """List the lines of code blocks that call the tool, with or without a prompt."""
    blocks = [block for block in text.split("```")[1::2] if block.startswith(("\n", "console\n"))]
    lines = (line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines())
    return [line for line in lines if line.startswith(f"{PROGRAM} ")]


SHOWN = sorted({line for page in PAGES for line in commands_of(page.read_text())})


@pytest.mark.parametrize("line", SHOWN)
def test_command_parses(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool has every verb and option that a page shows."""
    # GIVEN a shell in which the stack is named
    monkeypatch.setenv("CDK_HOROVOD_STACK", "Training")
    arguments = [word for word in shlex.split(line, comments=True)[1:] if word != ELLIPSIS]
    # WHEN
    command: click.Command = commands
    # With its settings: a command keeps the help option of the first context that it is asked in.
    context = click.Context(command, info_name=PROGRAM, **command.context_settings)
    while isinstance(command, click.Group):
        name, found, arguments = command.resolve_command(context, arguments)
        assert found is not None, name
        command, context = found, click.Context(found, parent=context, info_name=name)
    # THEN nothing is left over, and nothing is refused
    with command.make_context(command.name, arguments, parent=context.parent) as parsed:
        assert parsed.args == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files that a page links to exist."""
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_are_exported(page: Path) -> None:
    """A package exports every name that a page's Python imports from it."""
    # GIVEN the names that each package's `__init__` brings in
    exported = {
        package: set(re.findall(r"\b\w+\b", (REPOSITORY / folder / package / "__init__.py").read_text()))
        for folder, package in (("constructs", "cdk_horovod"), ("client", "horovod_client"))
    }
    # WHEN
    imports = re.findall(r"^from (cdk_horovod|horovod_client) import (.+)$", page.read_text(), flags=re.MULTILINE)
    # THEN
    missing = [name for package, names in imports for name in names.split(", ") if name not in exported[package]]
    assert missing == []


def test_every_error_is_explained() -> None:
    """The guide explains every error of the contract, and no other."""
    # GIVEN
    errors = {value for name, value in vars(contract).items() if name.startswith("ERROR_")}
    # WHEN
    told = re.findall(r"^\| `(\w+)` \|", (GUIDE / "when-it-fails.md").read_text(), flags=re.MULTILINE)
    # THEN
    assert sorted(told) == sorted(errors)


def test_every_page_is_linked_from_the_readme() -> None:
    """The README leads to each page of the guide."""
    readme = (REPOSITORY / "README.md").read_text()
    assert [page.name for page in GUIDE.glob("*.md") if f"(docs/guide/{page.name})" not in readme] == []
