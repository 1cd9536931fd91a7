"""`cdk-horovod stop`: stop a run."""

from __future__ import annotations

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.run import Run


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option(
    "--cause", default="stopped by a user", show_default=True, help="Reason, shown in the run's status and receipt."
)
@training_options
def stop(*, run: str, cause: str, stack: str, output: str | None, as_json: bool) -> None:
    """Stop RUN, which then has no model."""
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output))
    found.stop(cause)
    if as_json:
        print_json({"run": found.name, "execution": found.execution_arn})
    else:
        say(f"run {found.name} stopped")
