"""`cdk-horovod doctor`: whether everything is there that a run needs."""

from __future__ import annotations

from dataclasses import asdict

import click

from horovod_client.aws.clients import new_session
from horovod_client.cli import exit_codes
from horovod_client.cli.options import debug_option, json_option, output_option, print_json, say
from horovod_client.errors import InvalidInput


@click.command()
@click.option(
    "--stack",
    envvar="CDK_HOROVOD_STACK",
    show_envvar=True,
    help="Stack that has the training. Default: only the machine and the account are checked.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Run every state of the state machines through Step Functions' TestState, which starts nothing and is free.",
)
@output_option
@json_option
@debug_option
def doctor(*, stack: str | None, deep: bool, output: str | None, as_json: bool) -> None:
    """Check tools, credentials, the stack and quotas, and say what to fix; exit code 1 if a run cannot work."""
    # Here and not above: botocore comes with it, and a shell waits for every import.
    from horovod_client.doctor.check import FAIL, Check
    from horovod_client.doctor.examination import Doctor

    session = new_session()
    checks: list[Check] = []
    if deep and stack is None:
        raise InvalidInput("'--deep' needs '--stack', whose state machines it tests")
    examiner = Doctor(make_client=session.client, region=session.region_name)
    for check in examiner.examine(stack=stack, output=output, deep=deep):
        checks.append(check)
        if not as_json:
            say(f"{check.state:4}  {check.name:14}  {check.says}")
            if check.fix:
                say(f"{'':22}{check.fix}")
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    if any(check.state == FAIL for check in checks):
        raise click.exceptions.Exit(exit_codes.RUN_FAILED)
