"""
The public API as text, one fact a line, so that the difference of two versions reads as a list of changes.

It is read from the source, without importing it: scripts' helpers need TensorFlow or PyTorch to be imported.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import griffe

from horovod_client.cli import commands
from horovod_node import contract
from support.synthesis import REPOSITORY

MODULES = (
    "cdk_horovod",
    "horovod_client",
    "horovod_local",
    "horovod_node.training",
    "horovod_node.torch_training",
)
"""What users import; of each, the names in `__all__`."""
ROOTS = ("constructs", "client", "local_cloud", "training_image")
HEAD = """\
# The public API: what versions promise to keep (CONTRIBUTING.md, "Versions"). Written by `make snapshots`.
# A parameter in brackets is positional, with its position; all others are given by name.
"""


def api_text() -> str:
    """Write the API of all modules, of the command line, and of a request."""
    loader = griffe.GriffeLoader(search_paths=[str(REPOSITORY / root) for root in ROOTS], allow_inspection=False)
    for package in dict.fromkeys(module.partition(".")[0] for module in MODULES):
        loader.load(package)
    loader.resolve_aliases(external=False)
    lines = [line for module in MODULES for line in _module(loader.modules_collection[module])]
    lines += _command("cdk-horovod", commands)
    lines += [_request_field(field) for field in contract.REQUEST_FIELDS]
    return HEAD + "".join(f"{line}\n" for line in lines)


def _module(module: griffe.Object | griffe.Alias) -> Iterator[str]:
    assert module.exports, f"{module.path} has no __all__"
    for name in sorted(map(str, module.exports)):
        member = module[name]
        # A function of the name of its module hides it, where griffe has the module.
        yield from _member(f"{module.path}.{name}", member[name] if member.is_module else member)


def _member(path: str, member: griffe.Object | griffe.Alias) -> Iterator[str]:
    if member.is_class:
        yield from _class(path, member)
    elif member.is_function:
        yield from _function(path, member, skip_first="staticmethod" not in member.labels and member.parent.is_class)
    else:
        typed = f": {member.annotation}" if member.annotation else ""
        # Values of constants and of names for something else; how a construct makes an attribute is its own affair.
        shown = path.rpartition(".")[2].isupper() or (member.parent.is_module and not typed)
        yield f"{path}{typed}{f' = {member.value}' if shown else ''}"


def _class(path: str, member: griffe.Object | griffe.Alias) -> Iterator[str]:
    bases = ", ".join(str(base) for base in member.bases)
    yield f"{path} is {bases or 'object'}"
    members = member.all_members
    if "__init__" in members:
        yield from _parameters(path, members["__init__"], skip_first=True)
    for name, inner in sorted(members.items()):
        if not name.startswith("_"):
            yield from _member(f"{path}.{name}", inner)


def _function(path: str, member: griffe.Object | griffe.Alias, *, skip_first: bool) -> Iterator[str]:
    yield from _parameters(path, member, skip_first=skip_first)
    yield f"{path}() -> {member.returns or 'None'}"


def _parameters(path: str, member: griffe.Object | griffe.Alias, *, skip_first: bool) -> Iterator[str]:
    for position, parameter in enumerate([*member.parameters][1 if skip_first else 0 :]):
        kind = parameter.kind
        stars = {griffe.ParameterKind.var_positional: "*", griffe.ParameterKind.var_keyword: "**"}.get(kind, "")
        place = f"[{position}] " if kind.value.startswith("positional") else ""
        default = f" = {parameter.default}" if parameter.default is not None and not stars else ""
        yield f"{path}({place}{stars}{parameter.name}: {parameter.annotation or '?'}{default})"


def _command(path: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in sorted(command.list_commands(context)):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(f"{path} {name}", inner)
        return
    yield path
    for parameter in sorted(command.params, key=lambda each: (isinstance(each, click.Option), each.name or "")):
        name = "/".join([*parameter.opts, *parameter.secondary_opts])
        if isinstance(parameter, click.Argument):
            name = (parameter.name or "").upper()
        needed = " (required)" if parameter.required else ""
        yield f"{path} {name}{needed}"


def _request_field(field: contract.RequestField) -> str:
    return f"request {field.name}: {field.kind}{' (required)' if field.required else ''}"
