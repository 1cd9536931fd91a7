"""`cdk-horovod ls`: the newest runs."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from horovod_client.cli.options import print_json, say, training_options
from horovod_client.client import TrainingClient
from horovod_client.text.amounts import duration, moment
from horovod_client.text.columns import in_columns


@click.command()
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=20, show_default=True, help="Number of runs.")
@training_options
def ls(*, limit: int, stack: str, output: str | None, as_json: bool) -> None:
    """List the newest runs, the newest first."""
    runs = TrainingClient.from_stack(stack, output=output).runs(limit=limit)
    if as_json:
        print_json([asdict(run) for run in runs])
        return
    if not runs:
        say("no run yet: start one with cdk-horovod train SCRIPT --gpus N")
        return
    now = time.time()
    rows = [("run", "state", "stage", "gpus", "started", "took", "owner")]
    rows += [
        (
            run.name,
            run.state,
            run.stage if run.stage and run.ended_at is None else "",  # the last stage of an ended run repeats its state
            "" if run.gpus is None else str(run.gpus),
            moment(run.started_at),
            duration((run.ended_at or now) - run.started_at),
            run.owner or "",
        )
        for run in runs
    ]
    for line in in_columns(rows):
        say(line)
