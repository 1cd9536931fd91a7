"""`cdk-horovod local`: the local cloud, which needs no AWS account."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Final

import click

from horovod_client.errors import InvalidInput

NAMES: Final = ("up", "train", "status", "env", "down")
NEEDED: Final = ("horovod_local", "moto", "jsonata", "awscli")
"""Modules that the extra `local` installs."""


class _LocalCommands(click.Group):
    """
    Group of the local cloud's verbs, imported on use.

    They are in the package of the local cloud, which most users of the client do not install.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in NAMES:
            return None
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise InvalidInput(
                f"the local cloud is not installed (missing: {', '.join(missing)}): pip install 'cdk-horovod[local]'"
            )
        command = getattr(import_module("horovod_local.command_line.commands"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_LocalCommands)
def local() -> None:
    """Deploy and train on this machine, without an AWS account."""
