"""`cdk-horovod doctor`: check everything that a run needs."""

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
    help="Stack with the training. Default: check only the machine and the account.",
)
@click.option(
    "--deep",
    is_flag=True,
    help="Test every state of the state machines with Step Functions' TestState, which starts nothing and is free.",
)
@output_option
@json_option
@debug_option
def doctor(*, stack: str | None, deep: bool, output: str | None, as_json: bool) -> None:
    """Check tools, credentials, account, stack and quotas, and say what to fix; exit code 1 if a check failed."""
    # Imported here because it loads botocore, which would slow down every other verb.
    from horovod_client.doctor.check import FAIL, Check
    from horovod_client.doctor.examination import Doctor

    session = new_session()
    checks: list[Check] = []
    if deep and stack is None:
        raise InvalidInput("'--deep' needs '--stack', because it tests the stack's state machines")
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
