"""`cdk-horovod completion`: shell completion of verbs, options and runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the script for SHELL; in bash: eval "$(cdk-horovod completion bash)"."""
    root = context.find_root()
    program = root.info_name or "cdk-horovod"
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(root.command, {}, program, variable).source())
