"""`cdk-horovod receipt`: print the receipt of a run."""

from __future__ import annotations

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.results.receipt import render_receipt
from horovod_client.run import Run


@click.command()
@click.argument("run", shell_complete=complete_run)
@training_options
def receipt(*, run: str, stack: str, output: str | None, as_json: bool) -> None:
    """Print the receipt of RUN."""
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output)).receipt()
    if as_json:
        print_json(found)
    else:
        say(render_receipt(found))
