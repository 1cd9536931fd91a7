"""`doctor --deep`: tests of every state of a stack's state machines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from horovod_client.aws.connection import Connection
from horovod_client.aws.error_codes import DENIED, code_of
from horovod_client.aws.refusals import AwsError, why_refused
from horovod_client.doctor.check import FAIL, OK, Check, unchecked
from horovod_client.doctor.deep.mocks import STARTED, MockMaker, example_request
from horovod_client.doctor.deep.walk import Untestable, Verdict, Walk

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_stepfunctions import SFNClient

NAME: Final = "doctor"
"""Name of the execution in the mocked context."""
ACTION: Final = "states:TestState"


def examine_states(
    connection: Connection, *, stack: str, cloudformation: CloudFormationClient, stepfunctions: SFNClient
) -> Iterator[Check]:
    """
    Run every state of the stack's state machines through TestState with mocked results; nothing is started.

    Needs the permissions cloudformation:ListStackResources, states:DescribeStateMachine and states:TestState. "When you
    specify a mock, specifying the role becomes optional" (Step Functions Developer Guide, "Testing state machines with
    TestState API"). If AWS requires a role for a state without a mock, the state machine's own is passed, which needs
    iam:PassRole.

    Args:
        connection: Connection to the training.
        stack: Name of its stack.
        cloudformation: Client of the stack's account and Region.
        stepfunctions: Client of the same, which should retry when throttled (`tester_client`).
    """
    try:
        machines = [*_machines(cloudformation, stack)]
    except AwsError as error:
        yield unchecked("states", why_refused(error, action="cloudformation:ListStackResources"))
        return
    fleet = connection.fleets[0]
    for name, arn in machines:
        try:
            machine = stepfunctions.describe_state_machine(stateMachineArn=arn)
        except AwsError as error:
            yield unchecked(name, why_refused(error, action="states:DescribeStateMachine"))
            continue
        execution = f"{arn.replace(':stateMachine:', ':execution:', 1)}:{NAME}"
        given = example_request(fleet) if arn == connection.state_machine else ended_execution(connection)
        tester = _Tester(stepfunctions, role=machine["roleArn"])
        mocks = MockMaker(machine["definition"], fleet=fleet)
        walk = Walk(tester, definition=machine["definition"], given=given, execution=execution, mocks=mocks)
        verdicts = []
        try:
            for verdict in walk.verdicts():
                verdicts.append(verdict)
                yield _check(name, verdict)
        except AwsError as error:
            yield unchecked(name, why_refused(error, action=ACTION))
            continue
        bad = sum(1 for verdict in verdicts if verdict.problem)
        tests = f"{tester.requests} tests"
        if bad:
            yield Check(name=name, state=FAIL, says=f"{bad} of {len(verdicts)} states would fail ({tests})")
        else:
            yield Check(name=name, state=OK, says=f"all {len(verdicts)} states passed ({tests})")


def ended_execution(connection: Connection) -> dict[str, Any]:
    """
    Create EventBridge's event of a stopped execution, as the clean-up receives it.

    Source: Step Functions Developer Guide, "Automating Step Functions event delivery with EventBridge".

    Args:
        connection: Connection to the training.
    """
    return {
        "version": "0",
        "id": "00000000-0000-0000-0000-000000000000",
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "account": connection.state_machine.split(":")[4],
        "time": STARTED,
        "region": connection.region,
        "resources": [connection.execution_arn(NAME)],
        "detail": {
            "executionArn": connection.execution_arn(NAME),
            "stateMachineArn": connection.state_machine,
            "name": NAME,
            "status": "ABORTED",
            "startDate": 1767225600000,
            "stopDate": 1767225660000,
            "input": "{}",
            "output": None,
            "error": "StoppedByUser",
            "cause": "stopped by a user",
        },
    }


def tester_client(make_client: Callable[..., Any], *, region: str) -> Any:
    """
    Create a client for TestState with many retries, because AWS allows few of its requests a second.

    AWS serves TestState at the host prefix `sync-`, which an endpoint of the user does not have.

    Args:
        make_client: Creates a client, as `boto3.Session.client` does.
        region: Region of the training.
    """
    from botocore.config import Config

    host = str(make_client("stepfunctions", region_name=region).meta.endpoint_url)
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": 10},
        inject_host_prefix=".amazonaws." in host or host.endswith(".api.aws"),
    )
    return make_client("stepfunctions", region_name=region, config=config)


class _Tester:
    """Calls TestState; if AWS requires a role, with that of the state machine."""

    def __init__(self, stepfunctions: SFNClient, *, role: str) -> None:
        self._api = stepfunctions
        self._role = role
        self.requests = 0

    def __call__(self, **arguments: Any) -> dict[str, Any]:
        try:
            return self._call(arguments)
        except self._api.exceptions.ClientError as error:
            if code_of(error) in DENIED:
                raise
            said = str(error.response.get("Error", {}).get("Message", ""))
            if "mock" in arguments or "role" not in said.lower():
                raise Untestable(said) from error
        try:
            return self._call({**arguments, "roleArn": self._role})
        except self._api.exceptions.ClientError as error:
            raise Untestable(str(error)) from error

    def _call(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self.requests += 1
        answer: dict[str, Any] = dict(self._api.test_state(**arguments))
        return answer


def _machines(cloudformation: CloudFormationClient, stack: str) -> Iterator[tuple[str, str]]:
    for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=stack):
        for resource in page["StackResourceSummaries"]:
            if resource["ResourceType"] == "AWS::StepFunctions::StateMachine":
                yield resource["LogicalResourceId"], resource.get("PhysicalResourceId", "")


def _check(machine: str, verdict: Verdict) -> Check:
    if verdict.problem:
        fix = f"'{machine}' would fail in this state: please report it with this message"
        return Check(name=verdict.state, state=FAIL, says=verdict.problem, fix=fix)
    says = f"accepts {', '.join(dict.fromkeys(verdict.tried))}" if verdict.tried else "passed"
    return Check(name=verdict.state, state=OK, says=says)
