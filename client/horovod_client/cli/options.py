"""Options and printing that several verbs share."""

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
    Whether errors show their traceback; the one thing that a command tells `main`.

    Args:
        on: Set by `--debug`.
    """

    on: bool = False


def _debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.ensure_object(Debug).on = value


debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_debug, help="Show an error's traceback."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of lines.")
output_option = click.option("--output", help="Name of the training's stack output, if the stack has several.")


def training_options(command: Command) -> Command:
    """Give a command the arguments `stack`, `output` and `as_json`, and the switch `--debug`."""
    for option in (
        debug_option,
        json_option,
        output_option,
        click.option(
            "--stack", required=True, envvar="CDK_HOROVOD_STACK", show_envvar=True, help="Stack that has the training."
        ),
    ):
        command = option(command)
    return command


def print_json(document: object) -> None:
    """Print *document* for programs."""
    click.echo(printable_json(json.dumps(document, indent=2, ensure_ascii=False)))


def say(text: object = "", *, err: bool = False) -> None:
    """
    Print for people.

    Args:
        text: A line or several; whatever scripts and nodes wrote into it, it cannot drive the terminal.
        err: Print to stderr.
    """
    click.echo(printable(str(text)), err=err)
