"""`cdk-horovod train`: start a run and watch it until it ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from horovod_client.cli.completion_candidates import complete_run
from horovod_client.cli.options import print_json, say, training_options
from horovod_client.cli.request_arguments import parse_data, parse_hyperparameters, parse_max_runtime
from horovod_client.cli.watch.session import LOOK_SECONDS, watch_run
from horovod_client.client import TrainingClient
from horovod_client.errors import PricesMissing, ReceiptNotFound, RunFailed, ScriptDoubtful
from horovod_client.results.receipt import render_receipt
from horovod_client.run import STOPPED_ERROR, Run
from horovod_client.status.run_status import SUCCEEDED

_TOLD = (PricesMissing, ScriptDoubtful)
"""Warnings of the client that the tool prints as lines."""


@click.command()
@click.argument("script", type=click.Path())
@click.option("--gpus", type=int, required=True, help="GPUs of the ring, one rank on each.")
@click.option("--min-gpus", type=int, help="Smallest ring to begin with or shrink to; the script must be elastic.")
@click.option(
    "--data",
    multiple=True,
    metavar="[NAME=]S3_URI",
    help="Folder or object of a channel, which the script finds as SM_CHANNEL_<NAME>; the default NAME is 'training'. "
    "May be repeated.",
)
@click.option(
    "--hyperparameters",
    metavar="JSON|@FILE",
    help="JSON object, passed to the script as --name value and as SM_HPS.",
)
@click.option("--max-runtime", metavar="TIME", help="Stop after this much training, as in 24h or 1h30m.")
@click.option(
    "--max-cost-usd", type=float, metavar="USD", help="Stop when the run's instances have cost this much, as in 12.5."
)
@click.option("--max-restarts", type=int, help="Number of restarts from the newest checkpoint, 0 to 20.")
@click.option(
    "--resume-from", metavar="RUN", shell_complete=complete_run, help="Begin with the newest checkpoint of another run."
)
@click.option("--no-model", is_flag=True, help="The run succeeds even if the script leaves nothing in SM_MODEL_DIR.")
@click.option("--owner", help="Who the run is for: a tag of its instances, for cost allocation.")
@click.option("--project", help="What the run is for: a tag of its instances, for cost allocation.")
@click.option(
    "--source-dir",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="Folder to package; SCRIPT is then a path inside it.",
)
@click.option("--name", help="Name of the run. Default: the script's name, the time and some letters.")
@click.option("--detach", is_flag=True, help="Return as soon as the run is started.")
@click.option("--plain", is_flag=True, help="Print lines instead of the live view.")
@click.option("--dry-run", is_flag=True, help="Print the exact StartExecution arguments; upload and start nothing.")
@click.option(
    "--poll-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=LOOK_SECONDS,
    show_default=True,
    help="Seconds between two polls of the run.",
)
@training_options
def train(
    *,
    script: str,
    gpus: int,
    min_gpus: int | None,
    data: tuple[str, ...],
    hyperparameters: str | None,
    max_runtime: str | None,
    max_cost_usd: float | None,
    max_restarts: int | None,
    resume_from: str | None,
    no_model: bool,
    owner: str | None,
    project: str | None,
    source_dir: str | None,
    name: str | None,
    detach: bool,
    plain: bool,
    dry_run: bool,
    poll_seconds: float,
    stack: str,
    output: str | None,
    as_json: bool,
) -> None:
    """Train SCRIPT on the stack's fleet, print each stage, then the model's address and the receipt."""
    request: dict[str, Any] = {
        "gpus": gpus,
        "min_gpus": min_gpus,
        "data": parse_data(data) if data else None,
        "hyperparameters": parse_hyperparameters(hyperparameters) if hyperparameters is not None else None,
        "max_runtime": parse_max_runtime(max_runtime) if max_runtime is not None else None,
        "max_cost_usd": max_cost_usd,
        "max_restarts": max_restarts,
        "resume_from": resume_from,
        "model_required": not no_model,
        "owner": owner,
        "project": project,
        "source_dir": source_dir,
        "name": name,
    }
    client = TrainingClient.from_stack(stack, output=output)
    with _warnings_as_lines():
        if dry_run:
            print_json(client.fit(script, dry_run=True, **request))
            return
        run = client.fit(script, **request)
    if detach:
        _print_started(run, stack=stack, as_json=as_json)
        return
    _follow(run, stack=stack, poll_seconds=poll_seconds, as_json=as_json, plain=plain)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print warnings of the client as lines without file names."""
    with warnings.catch_warnings(record=True) as caught:
        for category in _TOLD:
            warnings.simplefilter("always", category)
        yield
    for each in caught:
        if issubclass(each.category, _TOLD):
            say(f"cdk-horovod: {each.message}", err=True)
        else:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)


def _print_started(run: Run, *, stack: str, as_json: bool) -> None:
    if as_json:
        print_json({"run": run.name, "execution": run.execution_arn})
    else:
        say(f"run {run.name} started")
        say(f"cdk-horovod: follow it with: cdk-horovod status {run.name} --watch --stack {stack}", err=True)


def _follow(run: Run, *, stack: str, poll_seconds: float, as_json: bool, plain: bool) -> None:
    """Show the run until it ends, then its result; with JSON on stdout, progress goes to stderr."""
    plain = plain or as_json
    try:
        watch_run(run, stack=stack, poll_seconds=poll_seconds, plain=plain, err=as_json, started=True)
    except RunFailed as failure:
        _print_end(run, as_json=as_json, failure=failure)
        if failure.error != STOPPED_ERROR:
            hint = f"cdk-horovod logs {run.name} --all --stack {stack}"
            say(f"cdk-horovod: see the output of its ranks with: {hint}", err=True)
        raise
    _print_end(run, as_json=as_json, failure=None)


def _print_end(run: Run, *, as_json: bool, failure: RunFailed | None) -> None:
    try:
        receipt = run.receipt()
    except ReceiptNotFound:  # the run was stopped, or its request was refused
        receipt = None
    if as_json:
        print_json(
            {
                "run": run.name,
                "execution": run.execution_arn,
                "state": failure.state if failure else SUCCEEDED,
                "error": failure.error if failure else None,
                "cause": failure.cause if failure else None,
                "model_uri": None if failure else run.model_uri,
                "receipt": receipt,
            }
        )
        return
    if not failure:
        say(run.model_uri)
    if receipt is not None:
        say(render_receipt(receipt))
    elif failure:
        say(str(failure))
