"""`cdk-horovod download`: download a run's model."""

from __future__ import annotations

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.run import Run


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.argument("path", type=click.Path(), required=False)
@training_options
def download(*, run: str, path: str | None, stack: str, output: str | None, as_json: bool) -> None:
    """Unpack the model of RUN into the folder PATH; default: a folder with the run's name."""
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output))
    folder = found.download_model(path or run)
    if as_json:
        print_json({"run": run, "model_uri": found.model_uri, "path": str(folder)})
    else:
        say(folder)
