"""`cdk-horovod status`: what a run is doing, or how it ended."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from horovod_client.cli.news import describe_capacity, describe_restarts, describe_stage
from horovod_client.cli.options import print_json, training_options
from horovod_client.client import TrainingClient
from horovod_client.errors import RunFailed
from horovod_client.run import Run


@click.command()
@click.argument("run")
@training_options
def status(*, run: str, stack: str, output: str | None, as_json: bool) -> None:
    """Tell what RUN is doing, or how it ended; the exit code is 1 if it failed."""
    found = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output)).status()
    if as_json:
        print_json(asdict(found))
    else:
        stage = None if found.ended else describe_stage(found)
        click.echo(f"run {found.run}: {found.state}{f', {stage}' if stage else ''}")
        for line in (describe_capacity(found, now=time.time()), describe_restarts(found)):
            if line is not None:
                click.echo(line)
        if found.notice:
            click.echo(found.notice)
        if found.cause:
            click.echo(found.cause)
        if found.model_uri:
            click.echo(found.model_uri)
    if found.ended and not found.succeeded:
        raise RunFailed(run=run, state=found.state, error=found.error, cause=found.cause)
