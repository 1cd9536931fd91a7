"""`cdk-horovod status`: show the status of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.cli.watch.session import watch_run
from horovod_client.client import TrainingClient
from horovod_client.errors import RunFailed
from horovod_client.run import Run
from horovod_client.status.describe import describe_progress, describe_restarts, describe_spend, describe_stage
from horovod_client.status.run_status import RunStatus
from horovod_client.status.waiting import explain_waiting
from horovod_client.text.amounts import duration


@click.command()
@click.argument("run", shell_complete=complete_run)
@click.option("--watch", is_flag=True, help="Show the live view until the run ends; needs a terminal.")
@training_options
def status(*, run: str, watch: bool, stack: str, output: str | None, as_json: bool) -> None:
    """Show what RUN is doing, or how it ended; the exit code is 1 if it failed."""
    followed = Run.from_id(run, client=TrainingClient.from_stack(stack, output=output))
    if watch and not as_json:
        watch_run(followed, stack=stack)
        return
    found = followed.status()
    if as_json:
        print_json(asdict(found))
    else:
        stage = None if found.ended else describe_stage(found)
        say(f"run {found.run}: {found.state}{f', {stage}' if stage else ''}")
        for line in _details(found, now=time.time()):
            say(line)
        if found.notice:
            say(found.notice)
        if found.cause:
            say(found.cause)
        if found.model_uri:
            say(found.model_uri)
    if found.ended and not found.succeeded:
        raise RunFailed(run=run, state=found.state, error=found.error, cause=found.cause)


def _details(status: RunStatus, *, now: float) -> Iterator[str]:
    """Describe the reason of waiting, restarts, progress, cost and nodes, in a line each."""
    waits = explain_waiting(status, now=now)
    if waits is not None:
        yield waits
    restarts = describe_restarts(status)
    if restarts is not None:
        yield restarts
    if status.progress is not None:
        yield describe_progress(status.progress, eta=not status.ended)
    if status.spend is not None:
        yield describe_spend(status.spend, ended=status.ended)
    for node in status.nodes:
        seen = "" if node.seen_at is None else f", last seen {duration(now - node.seen_at)} ago"
        facts = ", ".join(fact for fact in (node.instance_type, node.market, node.zone) if fact)
        yield f"  {node.node} ({facts}): {node.state}{', leader' if node.leads else ''}{seen}"
