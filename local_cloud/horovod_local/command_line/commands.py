"""The verbs of `cdk-horovod local`; `horovod_client.cli.local` imports them on use."""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any

import click

from horovod_client.cli.options import debug_option, json_option, print_json
from horovod_client.cli.request_arguments import parse_data
from horovod_client.cli.train import train as train_on_aws
from horovod_client.cli.upload_progress import upload_shown
from horovod_client.errors import RunFailed
from horovod_client.submit.local_data import upload_data
from horovod_client.submit.source import package_source
from horovod_client.text.amounts import counted, duration
from horovod_local import background
from horovod_local.background import BackgroundCloud
from horovod_local.cloud import DEFAULT_REGION
from horovod_local.command_line.contents import Contents, read_contents
from horovod_local.command_line.prerequisites import check_node_python, sample_assembly
from horovod_local.deployment.assembly import read_assembly
from horovod_local.deployment.deploy import deploy
from horovod_local.errors import LocalCloudError
from horovod_local.instances import opt_ml
from horovod_local.instances.processes import without_aws
from horovod_node import contract


def _report_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Report a `LocalCloudError` as an error message of the tool."""

    @wraps(command)
    def run(**options: Any) -> None:
        try:
            command(**options)
        except LocalCloudError as error:
            raise click.ClickException(str(error)) from error

    return run


def _verb(command: Callable[..., None]) -> Callable[..., None]:
    """Report errors of *command*, and add the option that all verbs have."""
    return debug_option(_report_errors(command))


@click.command()
@click.option(
    "--assembly",
    type=click.Path(path_type=Path, file_okay=False),
    help="Cloud assembly to deploy. Default: ./cdk.out if there is one, else an app with one fleet of 8 GPUs.",
)
@click.option(
    "--node-python",
    help="Python interpreter of the nodes, with horovod and tensorflow. Default: this one.",
)
@json_option
@_verb
def up(*, assembly: Path | None, node_python: str | None, as_json: bool) -> None:
    """Start a local cloud in the background and deploy into it, or show the one that runs."""
    folder = background.default_folder()
    with background.change_lock(folder):
        cloud = background.find(folder)
        if cloud is not None and node_python not in (None, cloud.node_python):
            raise LocalCloudError(
                f"'--node-python' of the running cloud is {cloud.node_python}, got {node_python}: stop that cloud "
                "first with cdk-horovod local down"
            )
        if cloud is None or assembly is not None or not read_contents(cloud).trainings:
            node_python = node_python or sys.executable
            check_node_python(node_python)
            chosen = assembly or _assembly_here() or sample_assembly(folder / "sample.out")
            regions = [stack.region for stack in read_assembly(chosen) if stack.region]
            cloud = _deployed(folder, chosen, region=(regions or [DEFAULT_REGION])[0], node_python=node_python)
    _print_cloud(cloud, read_contents(cloud), as_json=as_json)
    if not as_json:
        click.echo("train with:              cdk-horovod local train SCRIPT --gpus 2")
        click.echo('other verbs, this shell: eval "$(cdk-horovod local env)"')


def _assembly_here() -> Path | None:
    here = Path("cdk.out")
    return here if (here / "manifest.json").exists() else None


def _deployed(folder: Path, assembly: Path, *, region: str, node_python: str) -> BackgroundCloud:
    was_there = background.find(folder) is not None
    cloud = background.start(folder, region=region, node_python=node_python)
    try:
        deploy(
            assembly,
            clients=lambda service, *, region: cloud.client(service, region=region),
            endpoint=cloud.endpoint,
            account=cloud.account,
            region=cloud.region,
            tell=lambda _line: None,
        )
    except BaseException:
        if not was_there:  # a cloud that was started only for this deployment is stopped again
            background.stop(folder)
        raise
    return cloud


@click.command()
@json_option
@_verb
def status(*, as_json: bool) -> None:
    """Show what is deployed in the local cloud, and what runs there."""
    cloud = background.find(background.default_folder())
    if cloud is not None:
        _print_cloud(cloud, read_contents(cloud), as_json=as_json)
    elif as_json:
        print_json({"cloud": None})
    else:
        click.echo("no local cloud is running: start one with cdk-horovod local up")


@click.command()
@json_option
@_verb
def down(*, as_json: bool) -> None:
    """Stop the local cloud and its nodes, and delete everything in it."""
    folder, contents = background.default_folder(), Contents()
    with background.change_lock(folder):
        with contextlib.suppress(background.OtherVersionError):
            cloud = background.find(folder)
            contents = contents if cloud is None else read_contents(cloud)
        stopped = background.stop(folder)
    if as_json:
        print_json({"stopped": stopped, **asdict(contents)})
    elif not stopped:
        click.echo("no local cloud was running")
    else:
        for run in contents.runs:
            click.echo(f"run {run} was running")
        click.echo(f"the local cloud is gone, and {counted(len(contents.instances), 'instance')} with it")


@click.command()
@click.option("--unset", is_flag=True, help="Print the command that removes the variables again.")
@_verb
def env(*, unset: bool) -> None:
    """Print variables that point a shell at the local cloud, for eval "$(cdk-horovod local env)"."""
    cloud = _running()
    variables = cloud.environment()
    contents = read_contents(cloud)
    if len(contents.trainings) == 1:
        variables["CDK_HOROVOD_STACK"] = contents.trainings[0].stack
    names = sorted({*variables, *(name for name in os.environ if name not in without_aws(os.environ))})
    click.echo(f"unset {' '.join(names)}")
    if not unset:
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}")


def _train(**options: Any) -> None:
    cloud = _running()
    contents = read_contents(cloud)
    training = contents.training(stack=options["stack"], output=options["output"])
    data = parse_data(options["data"])
    if cloud.without_opt_ml:
        source = package_source(options["script"], source_dir=options["source_dir"])
        if contract.DEFAULT_ML_ROOT.encode() in source.text:
            _warn_about_opt_ml(cloud)
    with upload_shown(plain=options["plain"]) as watcher:
        for channel, address in data.items():
            if "://" not in address:
                data[channel] = upload_data(
                    address,
                    channel=channel,
                    bucket=training.data_bucket,
                    s3=cloud.client("s3"),
                    watcher=watcher,
                    dry_run=options["dry_run"],
                )
    try:
        with _environment(cloud):
            click.get_current_context().invoke(
                train_on_aws,
                **{
                    **options,
                    "stack": training.stack,
                    "data": tuple(f"{channel}={address}" for channel, address in data.items()),
                },
            )
    except (click.exceptions.Exit, RunFailed):
        _hint_at_environment()
        raise
    if options["detach"]:
        _hint_at_environment()


def _hint_at_environment() -> None:
    """Say that the commands just printed need the cloud's environment: in this shell they would ask AWS."""
    click.echo('cdk-horovod: before that, run in this shell: eval "$(cdk-horovod local env)"', err=True)


def _warn_about_opt_ml(cloud: BackgroundCloud) -> None:
    click.echo(f"cdk-horovod: {opt_ml.explanation(cloud.without_opt_ml)}", err=True)


def _train_parameters() -> list[click.Parameter]:
    """Return the parameters of `cdk-horovod train`, with an optional stack, and local files allowed as data."""
    parameters = [copy.copy(parameter) for parameter in train_on_aws.params]
    for parameter in parameters:
        match parameter:
            case click.Option(name="stack"):
                parameter.required, parameter.envvar = False, None
                parameter.help = "The stack of the training. Default: the only one."
            case click.Option(name="data"):
                parameter.metavar = "[NAME=]PATH|S3_URI"
                parameter.help = f"Local file or folder, which is uploaded first, or: {parameter.help}"
    return parameters


train = click.Command(
    "train",
    params=_train_parameters(),
    callback=_report_errors(_train),
    help="Train SCRIPT in the local cloud, with the same options as on AWS.",
)


def _running() -> BackgroundCloud:
    cloud = background.find(background.default_folder())
    if cloud is None:
        raise LocalCloudError("no local cloud is running: start one with cdk-horovod local up")
    return cloud


@contextlib.contextmanager
def _environment(cloud: BackgroundCloud) -> Iterator[None]:
    """Point this process's AWS SDKs at the cloud only, for the duration of the block."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update({**without_aws(before), **cloud.environment()})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _print_cloud(cloud: BackgroundCloud, contents: Contents, *, as_json: bool) -> None:
    if as_json:
        print_json({"cloud": asdict(cloud), **asdict(contents)})
        return
    age = duration(time.time() - cloud.started_at)
    click.echo(f"local cloud at {cloud.endpoint}, for {age}, region {cloud.region}")
    click.echo(f"  files      {cloud.home}")
    for training in contents.trainings:
        click.echo(f"  training   {training.stack}: up to {counted(training.max_gpus, 'GPU')}")
    click.echo(f"  instances  {len(contents.instances)}")
    for run in contents.runs:
        click.echo(f"  running    {run}")
    if cloud.without_opt_ml:
        _warn_about_opt_ml(cloud)
