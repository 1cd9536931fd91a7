"""`cdk-horovod prove`: run the drill in an AWS account or in the local cloud."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from horovod_client.aws.clients import new_session
from horovod_client.cli import exit_codes
from horovod_client.cli.options import debug_option, json_option, print_json, say
from horovod_client.errors import InvalidInput
from horovod_client.proof.claims import ENGINES
from horovod_node import contract

if TYPE_CHECKING:
    from horovod_client.proof.place import Place


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask before deploying.")
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="Engine that provides the nodes.",
)
@click.option(
    "--instance-type",
    default="g4dn.xlarge",
    show_default=True,
    help="Type of both nodes, with one GPU; on SageMaker, with or without 'ml.'.",
)
@click.option(
    "--image", default="", help="Folder with the Dockerfile, or image in ECR. Default: the library's own image."
)
@click.option("--limit-usd", default=5.0, show_default=True, help="Refuse to start if the estimate is higher.")
@click.option("--delete-data", is_flag=True, help="Also delete the drill's buckets and key.")
@click.option(
    "--local", "locally", is_flag=True, help="Run the drill in the local cloud, which proves nothing about AWS."
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the report. Default: the current one.",
)
@json_option
@debug_option
def prove(
    *,
    yes: bool,
    engine: str,
    instance_type: str,
    image: str,
    limit_usd: float,
    delete_data: bool,
    locally: bool,
    report: Path,
    as_json: bool,
) -> None:
    """
    Test in your AWS account what cannot be tested without one: deploy, train, stop, interrupt, destroy, report.

    Run this in a checkout of the repository. The exit code is 1 if a step failed.
    """
    from horovod_client.proof.drill import RUN_USD, Drill, estimate_usd

    examples = Path("examples/digits")
    if not (examples / "train.py").is_file():
        raise InvalidInput("there is no examples/digits/train.py: run this in a checkout of cdk-horovod")
    tell = _to_stderr
    kind = _type_on(engine, instance_type)
    with _local_place(engine, kind, RUN_USD) if locally else _account(engine, kind, image, RUN_USD) as place:
        usd = estimate_usd(place.on_demand_usd())
        tell(f"{place.name}: estimate {usd:.2f} USD, limit {limit_usd:.2f} USD")
        if usd > limit_usd:
            raise InvalidInput(f"'--limit-usd' must be at least {usd:.2f}, the estimate of the drill, got {limit_usd}")
        if not (yes or locally):
            click.confirm("Deploy, run and destroy it now?", abort=True, err=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, str(examples / "make_data.py"), folder], check=True)
            drill = Drill(
                place=place,
                examples=examples,
                data=Path(folder) / "digits.npz",
                limit_usd=limit_usd,
                delete_data=delete_data,
                tell=tell,
            )
            found = drill.run()
    paths = found.write(report)
    if as_json:
        print_json(found.to_json())
    else:
        say(found.to_markdown())
    tell(f"report: {' and '.join(map(str, paths))}")
    if not found.passed:
        raise click.exceptions.Exit(exit_codes.RUN_FAILED)


def _type_on(engine: str, instance_type: str) -> str:
    """Name an instance type as *engine* does."""
    if engine != contract.ENGINE_SAGEMAKER:
        return instance_type
    return contract.SAGEMAKER_PREFIX + instance_type.removeprefix(contract.SAGEMAKER_PREFIX)


@contextmanager
def _account(engine: str, instance_type: str, image: str, max_cost_usd: float) -> Iterator[Place]:
    from horovod_client.proof.aws import JOB_PACES, AwsPlace
    from horovod_client.proof.place import Paces

    yield AwsPlace(
        session=new_session(),
        engine=engine,
        instance_type=instance_type,
        image=image,
        max_cost_usd=max_cost_usd,
        tell=_to_stderr,
        paces=JOB_PACES if engine == contract.ENGINE_SAGEMAKER else Paces(),
    )


@contextmanager
def _local_place(engine: str, instance_type: str, max_cost_usd: float) -> Iterator[Place]:
    if find_spec("horovod_local") is None or find_spec("moto") is None:
        raise InvalidInput("the local cloud is not installed: pip install 'cdk-horovod[local]'")
    proving = import_module("horovod_local.command_line.proving")
    cloud_module = import_module("horovod_local.cloud")
    with (
        tempfile.TemporaryDirectory() as folder,
        cloud_module.LocalCloud(schedule_speed=proving.SCHEDULE_SPEED) as cloud,
    ):
        yield proving.LocalPlace(
            cloud=cloud,
            folder=Path(folder),
            engine=engine,
            instance_type=instance_type,
            max_cost_usd=max_cost_usd,
        )


def _to_stderr(line: str) -> None:
    say(line, err=True)
