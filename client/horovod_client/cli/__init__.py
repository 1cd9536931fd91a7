"""
The command line tool `cdk-horovod`, with one module for each verb.

The exit code of `train` and `status` is the outcome of the run; `exit_codes` lists all codes.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from horovod_client.cli import exit_codes
from horovod_client.cli.error_messages import explain
from horovod_client.cli.options import Debug, say
from horovod_client.errors import RunFailed

PROGRAM = "cdk-horovod"

VERBS = (
    "train",
    "ls",
    "status",
    "logs",
    "stop",
    "receipt",
    "cost",
    "engines",
    "download",
    "tensorboard",
    "local",
    "doctor",
    "prove",
    "completion",
)
"""Names of the verbs; each is a command in the module of the same name, imported on use."""


class Verbs(click.Group):
    """Group of the verbs, which imports only the verb that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the verbs in the order of a run's life."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load the verb *cmd_name*; None if there is none."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return command


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cdk-horovod", prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """Train on your own GPU fleet: nodes start, train, and terminate."""


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the tool and turn every error into one line on stderr and an exit code.

    Args:
        argv: Arguments after the program's name. Default: those of the process.
    """
    debug = Debug()
    try:
        result = commands.main(args=argv, prog_name=PROGRAM, standalone_mode=False, obj=debug)
        return result if isinstance(result, int) else exit_codes.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return exit_codes.BAD_INPUT
    except click.Abort:
        return exit_codes.INTERRUPTED
    except Exception as error:  # the only boundary: users see a traceback only with --debug
        if debug.on:
            say(traceback.format_exc(), err=True)
        if isinstance(error, RunFailed):
            _say(f"run '{error.run}' failed: {error.error or error.state}")
            return exit_codes.RUN_FAILED
        sentence = explain(error)
        if sentence is None:
            _say(f"unexpected {type(error).__name__}: {error}; --debug shows where")
            return exit_codes.FAULT
        _say(sentence)
        return exit_codes.BAD_INPUT


def _say(sentence: str) -> None:
    """Print *sentence* as one line on stderr."""
    say(f"{PROGRAM}: {' '.join(sentence.split())}", err=True)
