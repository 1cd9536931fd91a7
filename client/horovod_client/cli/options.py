"""Options and output functions that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from horovod_client.text.terminal import printable, printable_json

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass
class Debug:
    """
    The debug setting, which a command passes to `main`.

    Args:
        on: Whether errors show their traceback; set by `--debug`.
    """

    on: bool = False


def _debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.ensure_object(Debug).on = value


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show the traceback of an error."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
output_option = click.option("--output", help="Name of the training's stack output, if the stack has several.")


def training_options(command: Command) -> Command:
    """Add the options `--stack`, `--output`, `--json` and `--debug` to a command."""
    for option in (
        debug_option,
        json_option,
        output_option,
        click.option(
            "--stack", required=True, envvar="CDK_HOROVOD_STACK", show_envvar=True, help="Stack with the training."
        ),
    ):
        command = option(command)
    return command


def print_json(document: object) -> None:
    """Print *document* as JSON."""
    click.echo(printable_json(json.dumps(document, indent=2, ensure_ascii=False)))


def say(text: object = "", *, err: bool = False) -> None:
    """
    Print text for people; control sequences in it are removed or escaped.

    Args:
        text: One or more lines.
        err: Print to stderr. Default: to stdout.
    """
    click.echo(printable(str(text)), err=err)
