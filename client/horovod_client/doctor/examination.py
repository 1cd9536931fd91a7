"""Read-only checks of everything that a run needs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from horovod_client.aws.connection import Connection, find_connection
from horovod_client.aws.error_codes import DENIED, code_of
from horovod_client.aws.refusals import AwsError, Unreachable, why_refused
from horovod_client.doctor.account import check_account
from horovod_client.doctor.check import FAIL, OK, WARN, Check, unchecked
from horovod_client.doctor.endpoints import check_endpoints
from horovod_client.doctor.job_quotas import check_job_quotas
from horovod_client.doctor.offers import check_offers
from horovod_client.doctor.quotas import check_quotas
from horovod_client.errors import ConnectionNotFound
from horovod_node import contract

PACKAGES: Final = ("cdk-horovod", "boto3", "click", "rich", "pathspec")
OLDEST_PYTHON: Final = (3, 11)
TOLERATED_SKEW_SECONDS: Final = 60
"""AWS refuses requests whose time is 5 minutes off (15 for S3)."""
NOBODY: Final = "cdk-horovod-doctor"
"""Name of a run that does not exist: a call for it tests the permission."""
NOT_THERE: Final = frozenset({"404", "NoSuchKey", "ExecutionDoesNotExist"})


class Doctor:
    """
    Checks the machine, the credentials, the account and the training.

    Args:
        make_client: Creates a boto3 client from a service's name and `region_name`, as `boto3.Session.client` does.
        region: Region of the stack; None if the user has set none.
        now: Returns the time in epoch seconds. Default: the system's clock.
    """

    def __init__(
        self, *, make_client: Callable[..., Any], region: str | None, now: Callable[[], float] = time.time
    ) -> None:
        self._make_client = make_client
        self._region = region
        self._now = now

    def examine(self, *, stack: str | None, output: str | None = None, deep: bool = False) -> Iterator[Check]:
        """
        Run the checks in order; checks that depend on a failed one are left out.

        Args:
            stack: Name of the stack with the training; None to check only machine and account.
            output: Name of the training's stack output, for a stack with several. Default: the only one.
            deep: Whether to test every state of the state machines (`horovod_client.doctor.deep`), which takes a few
                minutes. Default: no.
        """
        yield from check_tools()
        if self._region is None:
            yield Check(name="region", state=FAIL, says="no region is set", fix="set AWS_REGION to the stack's")
            return
        yield Check(name="region", state=OK, says=self._region)
        credentials = [*self._check_credentials()]
        yield from credentials
        if any(check.state == FAIL for check in credentials):
            return
        yield from check_account(ec2=self._client("ec2"), quotas=self._client("service-quotas"), region=self._region)
        if stack is None:
            yield unchecked("stack", "none was given; set --stack NAME or CDK_HOROVOD_STACK to check it")
            return
        try:
            connection = find_connection(self._client("cloudformation"), stack_name=stack, output=output)
        except ConnectionNotFound as error:
            fix = "deploy the stack with 'cdk deploy', or name another one"
            yield Check(name="stack", state=FAIL, says=str(error), fix=fix)
            return
        except AwsError as error:
            yield Check(name="stack", state=FAIL, says=why_refused(error, action="cloudformation:DescribeStacks"))
            return
        fleets = ", ".join(f"{fleet.id} ({fleet.max_gpus} GPUs)" for fleet in connection.fleets)
        says = f"{stack}, connection version {contract.CONTRACT_VERSION}; fleets: {fleets}"
        yield Check(name="stack", state=OK, says=says)
        yield from check_quotas(connection.fleets, ec2=self._client("ec2"), quotas=self._client("service-quotas"))
        yield from check_job_quotas(connection.fleets, quotas=self._client("service-quotas"))
        yield from check_offers(connection.fleets, ec2=self._client("ec2"), autoscaling=self._client("autoscaling"))
        yield from check_endpoints(connection.fleets, ec2=self._client("ec2"), autoscaling=self._client("autoscaling"))
        yield from self._check_permissions(connection)
        yield self._check_log_group(connection)
        if deep:
            from horovod_client.doctor.deep.examine import examine_states, tester_client

            yield from examine_states(
                connection,
                stack=stack,
                cloudformation=self._client("cloudformation"),
                stepfunctions=tester_client(self._make_client, region=self._region),
            )

    def _check_credentials(self) -> Iterator[Check]:
        fix = "sign in, for example with 'aws sso login', or set AWS_PROFILE; the AWS CLI itself is not needed"
        try:
            answer = self._client("sts").get_caller_identity()
        except AwsError as error:
            says = why_refused(error, action="sts:GetCallerIdentity")
            if isinstance(error, Unreachable):  # says nothing about the credentials
                fix = "check the network, the region and AWS_ENDPOINT_URL"
            yield Check(name="credentials", state=FAIL, says=says, fix=fix)
            return
        yield Check(name="credentials", state=OK, says=answer["Arn"])
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is None:
            yield unchecked("clock", "AWS's answer had no date")
            return
        skew = self._now() - parsedate_to_datetime(date).timestamp()
        if abs(skew) <= TOLERATED_SKEW_SECONDS:
            yield Check(name="clock", state=OK, says="within a minute of AWS's")
        else:
            says = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} AWS's"
            fix = "set the clock, for example by NTP: AWS refuses requests that are 5 minutes off"
            yield Check(name="clock", state=WARN, says=says, fix=fix)

    def _check_permissions(self, connection: Connection) -> Iterator[Check]:
        """Test permissions with the client's read calls, for items that do not exist."""
        partition, sort = contract.lease_key(NOBODY)
        key = {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
        s3 = self._client("s3")
        probes: tuple[tuple[str, str, Callable[[], object]], ...] = (
            (
                "runs",
                "states:DescribeExecution",
                lambda: self._client("stepfunctions").describe_execution(executionArn=connection.execution_arn(NOBODY)),
            ),
            (
                "ledger",
                "dynamodb:GetItem",
                lambda: self._client("dynamodb").get_item(TableName=connection.ledger_table, Key=key),
            ),
            (
                "data bucket",
                "s3:GetObject and s3:ListBucket",
                lambda: s3.head_object(Bucket=connection.data_bucket, Key=contract.source_key(NOBODY)),
            ),
            (
                "model bucket",
                "s3:GetObject and s3:ListBucket",
                lambda: s3.head_object(Bucket=connection.model_bucket, Key=contract.receipt_key(NOBODY)),
            ),
        )
        for name, action, call in probes:
            try:
                call()
            except AwsError as error:
                code = code_of(error)
                if code in DENIED:
                    fix = "ask the owner of the stack to add 'training.grant_start(your_role)'"
                    yield Check(name=name, state=FAIL, says=why_refused(error, action=action), fix=fix)
                    continue
                if code not in NOT_THERE:
                    yield unchecked(name, why_refused(error, action=action))
                    continue
            yield Check(name=name, state=OK, says="readable")

    def _check_log_group(self, connection: Connection) -> Check:
        name = connection.log_group
        try:
            found = self._client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]
        except AwsError as error:
            return unchecked("log group", why_refused(error, action="logs:DescribeLogGroups"))
        if any(group.get("logGroupName") == name for group in found):
            return Check(name="log group", state=OK, says=name)
        fix = "deploy the stack again to create the group"
        return Check(name="log group", state=WARN, says=f"'{name}' does not exist, so runs have no logs", fix=fix)

    def _client(self, service: str) -> Any:
        return self._make_client(service, region_name=self._region)


def check_tools() -> Iterator[Check]:
    """Check Python and the packages that the client needs."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield Check(name="Python", state=FAIL, says=python, fix="install Python 3.11 or newer")
    else:
        yield Check(name="Python", state=OK, says=python)
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        says = f"not installed: {', '.join(missing)}"
        # A checkout on the path works without an installation.
        state = WARN if missing == ["cdk-horovod"] else FAIL
        yield Check(name="packages", state=state, says=says, fix="pip install cdk-horovod")
    else:
        yield Check(name="packages", state=OK, says=", ".join(found))
