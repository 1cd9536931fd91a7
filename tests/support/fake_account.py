"""
A fake AWS account for tests of the client: a stack with one training, whose runs end as their requests say.

`connection_to` gives what a client knows of a training without any account.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3

from horovod_client import Connection, Fleet
from horovod_node import contract

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_stepfunctions import SFNClient

STACK = "Training"

# What the run does is up to its request, so that a test can have any ending: `outcome` is one of its hyperparameters.
MACHINE = {
    "StartAt": "Which outcome?",
    "States": {
        "Which outcome?": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.hyperparameters.outcome", "StringEquals": "success", "Next": "Succeed"},
                {"Variable": "$.hyperparameters.outcome", "StringEquals": "failure", "Next": "Fail"},
            ],
            "Default": "Train for a long time",
        },
        "Train for a long time": {"Type": "Wait", "Seconds": 3600, "Next": "Succeed"},
        "Succeed": {"Type": "Succeed"},
        "Fail": {
            "Type": "Fail",
            "Error": contract.ERROR_TRAINING_FAILED,
            "Cause": "Traceback (most recent call last):\n  …\nValueError: no digits",
        },
    },
}


def configure_moto(endpoint: str, what: str, body: str) -> None:
    """Change a setting of the moto that serves *endpoint*."""
    url, headers = f"{endpoint}/moto-api/{what}", {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(url, data=body.encode(), headers=headers)).close()  # noqa: S310


def connection_output(**changes: object) -> dict[str, object]:
    """Build the stack output of a training as CDK writes it: JSON with references inside."""
    values = {
        contract.CONNECTION_VERSION: contract.CONTRACT_VERSION,
        contract.CONNECTION_STATE_MACHINE: {"Ref": "StateMachine"},
        contract.CONNECTION_DATA_BUCKET: {"Ref": "Data"},
        contract.CONNECTION_MODEL_BUCKET: {"Ref": "Models"},
        contract.CONNECTION_LEDGER_TABLE: {"Ref": "Ledger"},
        contract.CONNECTION_QUEUE: "Training",
        contract.CONNECTION_FLEETS: [
            {
                contract.CONNECTION_FLEET: "TrainingFleet",
                contract.CONNECTION_MAX_GPUS: 16,
                contract.CONNECTION_GPU_STEP: 4,
                contract.CONNECTION_GROUP: "TrainingGroup",
                contract.CONNECTION_TYPES: {"g5.12xlarge": 4, "g4dn.12xlarge": 4},
            }
        ],
        contract.CONNECTION_LOG_GROUP: "/training/nodes",
        contract.CONNECTION_MAX_RUNTIME_SECONDS: 86_400,
        contract.CONNECTION_MAX_COST_USD: 500,
    } | changes
    parts: list[object] = []
    for name, value in values.items():
        parts.append(f"{',' if parts else '{'}{json.dumps(name)}:")
        parts += ['"', value, '"'] if isinstance(value, dict) else [json.dumps(value)]
    return {"Description": contract.CONNECTION_DESCRIPTION, "Value": {"Fn::Join": ["", [*parts, "}"]]}}


def template(outputs: dict[str, object]) -> str:
    """Build the template of a stack with one training's resources and *outputs*."""
    keys = {contract.PARTITION_KEY: "HASH", contract.SORT_KEY: "RANGE"}
    return json.dumps(
        {
            "Parameters": {"StateMachine": {"Type": "String"}},
            "Resources": {
                "Data": {"Type": "AWS::S3::Bucket"},
                "Models": {"Type": "AWS::S3::Bucket"},
                "Ledger": {
                    "Type": "AWS::DynamoDB::Table",
                    "Properties": {
                        "BillingMode": "PAY_PER_REQUEST",
                        "AttributeDefinitions": [{"AttributeName": k, "AttributeType": "S"} for k in keys],
                        "KeySchema": [{"AttributeName": k, "KeyType": kind} for k, kind in keys.items()],
                    },
                },
            },
            "Outputs": outputs,
        }
    )


def connection_to(*fleets: Fleet, region: str = "eu-west-1", **facts: Any) -> Connection:
    """Build a connection to a training with these *fleets*; *facts* set more fields of `Connection`."""
    return Connection(
        state_machine=f"arn:aws:states:{region}:123456789012:stateMachine:Run",
        data_bucket="data",
        model_bucket="models",
        ledger_table="ledger",
        queue="Training",
        log_group="/cdk-horovod/Training",
        fleets=fleets,
        max_runtime_seconds=36_000,
        **facts,
    )


@dataclass(frozen=True, kw_only=True)
class Account:
    """The fake account, seen from the other side than the client's."""

    endpoint: str
    session: boto3.Session
    state_machine: str
    cloudformation: CloudFormationClient
    dynamodb: DynamoDBClient
    s3: S3Client
    stepfunctions: SFNClient

    def make_log_group(self, name: str) -> None:
        """Make the nodes' log group, unless another test of this account has."""
        logs = self.session.client("logs", endpoint_url=self.endpoint)
        with suppress(logs.exceptions.ResourceAlreadyExistsException):
            logs.create_log_group(logGroupName=name)

    def deploy(self, stack: str, outputs: dict[str, object]) -> None:
        """Deploy a stack with *outputs*."""
        self.cloudformation.create_stack(
            StackName=stack,
            TemplateBody=template(outputs),
            Parameters=[{"ParameterKey": "StateMachine", "ParameterValue": self.state_machine}],
        )

    def sign_in(self, user: str, statements: list[dict[str, str]]) -> boto3.Session:
        """Make a user with a policy of these *statements*, and a session of theirs."""
        iam = self.session.client("iam", endpoint_url=self.endpoint)
        policy = {"Version": "2012-10-17", "Statement": statements}
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="Permissions", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=user)["AccessKey"]
        return boto3.Session(aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])

    @contextmanager
    def permissions_enforced(self) -> Iterator[None]:
        """Make moto refuse what policies do not allow; elsewhere it allows everything to everybody."""
        configure_moto(self.endpoint, "reset-auth", "0")
        try:
            yield
        finally:
            configure_moto(self.endpoint, "reset-auth", "inf")

    def keys(self, bucket: str) -> set[str]:
        """List the keys in *bucket*."""
        return {found["Key"] for found in self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])}

    def read(self, bucket: str, key: str) -> bytes:
        """Read one object."""
        return self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def runs(self) -> set[str]:
        """List the executions of the state machine."""
        executions = self.stepfunctions.list_executions(stateMachineArn=self.state_machine)["executions"]
        return {execution["name"] for execution in executions}

    def request(self, execution_arn: str) -> Any:
        """Read what an execution was started with."""
        return json.loads(self.stepfunctions.describe_execution(executionArn=execution_arn)["input"])

    def run_ids(self, connection: Connection, run: str) -> list[str]:
        """
        Identify the run of this name.

        One that is not started yet gets its id from the second at which that happens: each of the next hundred is here.
        """
        try:
            execution = self.stepfunctions.describe_execution(executionArn=connection.execution_arn(run))
        except self.stepfunctions.exceptions.ExecutionDoesNotExist:
            now = datetime.now(UTC)
            starts = [now + timedelta(seconds=second) for second in range(100)]
        else:
            starts = [execution["startDate"]]
        return [contract.run_id(connection.queue, run, start) for start in starts]

    def set_stage(self, connection: Connection, run: str, stage: str, **others: str) -> None:
        """Write the ledger's item of *run*, as the state machine does: the stage, and *others* by their names."""
        attributes = {contract.STAGE: stage, **others}
        for run_id in self.run_ids(connection, run):
            self.put(connection, contract.run_key(run_id), {name: {"S": text} for name, text in attributes.items()})

    def set_line(self, connection: Connection, places: Mapping[str, int]) -> None:
        """Write the line: run to the time, in milliseconds, at which it began to wait."""
        attributes: dict[str, AttributeValueTypeDef] = {}
        for run, place in places.items():
            waiter: AttributeValueTypeDef = {"M": {contract.GPUS: {"N": "4"}, contract.SEEN_AT: {"N": "1740823200"}}}
            attributes |= {
                f"{contract.PLACE_PREFIX}{run}": {"N": str(place)},
                f"{contract.WAITER_PREFIX}{run}": waiter,
            }
        self.put(connection, contract.queue_key(connection.queue), attributes)

    def put(
        self, connection: Connection, key: tuple[str, str], attributes: Mapping[str, AttributeValueTypeDef]
    ) -> None:
        """Write one item of the ledger."""
        self.dynamodb.put_item(TableName=connection.ledger_table, Item={**_names(key), **attributes})

    def delete(self, connection: Connection, key: tuple[str, str]) -> None:
        """Take one item out of the ledger."""
        self.dynamodb.delete_item(TableName=connection.ledger_table, Key=_names(key))


def _names(key: tuple[str, str]) -> dict[str, AttributeValueTypeDef]:
    partition, sort = key
    return {contract.PARTITION_KEY: {"S": partition}, contract.SORT_KEY: {"S": sort}}
