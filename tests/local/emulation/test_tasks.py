"""Calls of a state machine to AWS, against AWS's documented behaviour."""

from __future__ import annotations

import datetime
import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from horovod_local import ApiFault, Faults

SDK = "arn:aws:states:::aws-sdk:"


def task(action: str, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A state that calls *action* with *arguments*."""
    return {"Type": "Task", "Resource": SDK + action, "Arguments": arguments, **fields}


@pytest.fixture(scope="module")
def bucket(cloud: Any) -> str:
    """A bucket with the object `text`."""
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="tasks", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="tasks", Key="text", Body="hello")
    return "tasks"


@pytest.mark.parametrize(
    ("body", "stored"),
    [
        ({"model": "s3://a/b", "gpus": [1, 2]}, '{"model":"s3://a/b","gpus":[1,2]}'),
        ("{% $states.input %}", '{"given":1}'),
        ("{% $string($states.input) %}", '"{\\"given\\":1}"'),
        ("plain text", '"plain text"'),
    ],
)
def test_arguments_are_fitted_to_the_api(cloud: Any, machines: Any, bucket: str, body: Any, stored: str) -> None:
    """What is given as the body of PutObject is stored as its JSON: an object as it is meant, a text in quotes."""
    # WHEN
    machines.output(task("s3:putObject", {"Bucket": bucket, "Key": "body", "Body": body}), {"given": 1})

    # THEN
    assert cloud.client("s3").get_object(Bucket=bucket, Key="body")["Body"].read().decode() == stored


def test_results_are_json(machines: Any, bucket: str) -> None:
    """Times and bodies in a result are text, and the keys are those of the API."""
    # WHEN
    read = machines.output(task("s3:getObject", {"Bucket": bucket, "Key": "text"}))
    listed = machines.output(task("s3:listObjectsV2", {"Bucket": bucket, "Prefix": "text"}))

    # THEN
    assert (read["Body"], read["ContentLength"]) == ("hello", 5)
    assert [item["Key"] for item in listed["Contents"]] == ["text"]
    assert datetime.datetime.fromisoformat(listed["Contents"][0]["LastModified"]).tzinfo is not None


@pytest.mark.parametrize(
    ("action", "arguments", "error"),
    [
        ("s3:getObject", {"Bucket": "tasks", "Key": "missing"}, "S3.NoSuchKeyException"),
        (
            "autoscaling:updateAutoScalingGroup",
            {"AutoScalingGroupName": "missing", "DesiredCapacity": 1},
            "AutoScaling.AutoScalingException",
        ),
        ("ec2:describeInstances", {"InstanceIds": ["i-00000000000000000"]}, "Ec2.Ec2Exception"),
        (
            "dynamodb:putItem",
            {"TableName": "tokens", "Item": {"pk": {"S": "a"}}, "ConditionExpression": "attribute_exists(never)"},
            "DynamoDb.ConditionalCheckFailedException",
        ),
        (
            "dynamodb:getItem",
            {"TableName": "missing", "Key": {"pk": {"S": "a"}}},
            "DynamoDb.ResourceNotFoundException",
        ),
    ],
)
def test_errors_carry_the_service_name(
    machines: Any, bucket: str, action: str, arguments: dict[str, Any], error: str
) -> None:
    """An SDK error is named after the service and the API's error, and its cause is the API's message."""
    # WHEN
    ended = machines.run(task(action, arguments))

    # THEN
    assert bucket
    assert (ended["status"], ended["error"]) == ("FAILED", error)
    assert "Status Code: 4" in ended["cause"]


def test_state_machines_have_a_key_of_their_own(cloud: Any, machines: Any) -> None:
    """A state machine's calls are answered, and moto's own key, which everybody knows, is refused."""
    # GIVEN
    known = boto3.session.Session(aws_access_key_id="ak", aws_secret_access_key="sk", region_name=cloud.region)

    # WHEN
    tables = machines.output(task("dynamodb:listTables", {}))["TableNames"]

    # THEN
    assert "tokens" in tables
    with pytest.raises(ClientError, match="UnrecognizedClientException"):
        known.client("dynamodb", endpoint_url=cloud.endpoint).list_tables()


def test_results_have_the_names_of_the_sdk_for_java(machines: Any, fleets: Any) -> None:
    """Arguments and results are spelt as the SDK for Java spells them, inside lists and maps too."""
    # GIVEN
    fleet = fleets.create()
    subnets = fleet.describe()["VPCZoneIdentifier"]
    item = {"pk": {"S": "java"}, "yes": {"Bool": True}, "set": {"Ss": ["a"]}, "none": {"Nul": True}}
    key = {"TableName": "tokens", "Key": {"pk": {"S": "java"}}}

    # WHEN
    scale = {"AutoScalingGroupName": fleet.name, "VpcZoneIdentifier": subnets.split(",")[0]}
    machines.output(task("autoscaling:updateAutoScalingGroup", scale))
    found = machines.output(task("autoscaling:describeAutoScalingGroups", {"AutoScalingGroupNames": [fleet.name]}))[
        "AutoScalingGroups"
    ][0]
    machines.output(task("dynamodb:putItem", {"TableName": "tokens", "Item": item}))
    read = machines.output(task("dynamodb:getItem", key))

    # THEN
    assert found["VpcZoneIdentifier"] == subnets.split(",")[0]
    assert "VPCZoneIdentifier" not in found
    assert read["Item"] == item


@pytest.mark.parametrize(
    ("action", "arguments", "refusal"),
    [
        ("s3:listBuckets", {"Bukket": "a"}, 'The field "Bukket" is not supported by Step Functions'),
        (
            "autoscaling:updateAutoScalingGroup",
            {"AutoScalingGroupName": "a", "VPCZoneIdentifier": "b"},
            'The field "VPCZoneIdentifier" is not supported by Step Functions',
        ),
        (
            "dynamodb:putItem",
            {"TableName": "tokens", "Item": {"pk": {"BOOL": True}}},
            'The field "BOOL" is not supported by Step Functions at /States/Only/Arguments/Item/pk',
        ),
        ("sfn:describeExecution", {"executionArn": "a"}, 'The field "executionArn" is not supported by Step Functions'),
        ("dynamodb:getItem", {"TableName": "a"}, 'The field "Key" is required but was missing'),
        ("s3:listBukkets", {}, "The resource provided arn:aws:states:::aws-sdk:s3:listBukkets is not recognized"),
    ],
)
def test_unknown_arguments_are_refused(machines: Any, action: str, arguments: dict[str, Any], refusal: str) -> None:
    """
    A state machine that calls what there is not is not created.

    The words are those of the Developer Guide's "Passing parameters to a service API in Step Functions".
    """
    # WHEN
    with pytest.raises(machines.api.exceptions.InvalidDefinition) as refused:
        machines.create(task(action, arguments))

    # THEN
    assert refusal in str(refused.value)


def test_unknown_arguments_are_refused_in_updates(machines: Any) -> None:
    """UpdateStateMachine refuses what CreateStateMachine does, and the machine stays as it was."""
    # GIVEN
    machine = machines.create({"Type": "Pass"})
    wrong = {"QueryLanguage": "JSONata", "StartAt": "A", "States": {"A": task("s3:listBuckets", {"B": 1}, End=True)}}

    # WHEN
    with pytest.raises(machines.api.exceptions.InvalidDefinition):
        machines.api.update_state_machine(stateMachineArn=machine, definition=json.dumps(wrong))

    # THEN
    kept = machines.api.describe_state_machine(stateMachineArn=machine)["definition"]
    assert json.loads(kept)["StartAt"] == "Only"


def test_computed_arguments_are_refused_when_they_are_known(machines: Any) -> None:
    """Arguments that an expression makes are looked at when it has: the task fails with States.Runtime."""
    # WHEN
    ended = machines.run({"Type": "Task", "Resource": f"{SDK}s3:listBuckets", "Arguments": "{% {'Bukket': 'a'} %}"})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.Runtime")
    assert 'The field "Bukket" is not supported by Step Functions' in ended["cause"]


def test_error_classes_are_those_of_the_sdk_for_java(machines: Any, faults: Any) -> None:
    """A fault of an API's model is the exception that the SDK for Java has a class of."""
    # GIVEN
    api = {"service": "autoscaling", "operation": "SetDesiredCapacity", "status": 400}
    faults.set_faults(Faults(failing=(ApiFault(**api, error="ScalingActivityInProgress"),)))

    # WHEN
    ended = machines.run(task("autoscaling:setDesiredCapacity", {"AutoScalingGroupName": "any", "DesiredCapacity": 0}))

    # THEN
    assert ended["error"] == "AutoScaling.ScalingActivityInProgressException"


def test_terminal_errors_are_not_caught(cloud: Any, machines: Any, bucket: str) -> None:
    """A result beyond 256 KiB ends the execution, whatever a Catch of States.ALL would do."""
    # GIVEN
    cloud.client("s3").put_object(Bucket=bucket, Key="large", Body="x" * 300_000)
    caught = [{"ErrorEquals": ["States.ALL"], "Next": "Caught"}]
    read = task("s3:getObject", {"Bucket": bucket, "Key": "large"}, Catch=caught, End=True)

    # WHEN
    ended = machines.run({"StartAt": "Read", "States": {"Read": read, "Caught": {"Type": "Succeed"}}})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.DataLimitExceeded")


def test_fail_states_may_repeat_caught_errors(machines: Any) -> None:
    """A Fail state may end the execution with the name of an error that was caught, States.* included."""
    # WHEN
    ended = machines.run(
        {"StartAt": "Fail", "States": {"Fail": {"Type": "Fail", "Error": "{% 'States.Timeout' %}", "Cause": "late"}}}
    )

    # THEN
    assert (ended["error"], ended["cause"]) == ("States.Timeout", "late")


def test_choices_without_a_match_say_so(machines: Any) -> None:
    """A Choice without a match and without a Default fails with States.NoChoiceMatched."""
    # GIVEN
    choice = {"Type": "Choice", "Choices": [{"Condition": "{% false %}", "Next": "Yes"}]}

    # WHEN
    ended = machines.run({"StartAt": "Choose", "States": {"Choose": choice, "Yes": {"Type": "Succeed"}}})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.NoChoiceMatched")


def test_state_machines_start_others_and_wait(machines: Any) -> None:
    """A state machine starts another, waits for it, and has its output as JSON; its failure is States.TaskFailed."""
    # GIVEN
    echo = machines.create({"Type": "Pass", "Output": {"heard": "{% $states.input.said %}"}})
    failing = machines.create(
        {"StartAt": "Fail", "States": {"Fail": {"Type": "Fail", "Error": "Told", "Cause": "why"}}}
    )

    def nested(machine: str) -> dict[str, Any]:
        arguments = {"StateMachineArn": machine, "Input": {"said": "{% $states.input.word %}"}}
        return {
            "Type": "Task",
            "Resource": "arn:aws:states:::states:startExecution.sync:2",
            "Arguments": arguments,
            "Output": "{% $states.result.Output %}",
        }

    # WHEN
    output = machines.output(nested(echo), {"word": "hello"})
    failed = machines.run(nested(failing), {"word": "hello"})

    # THEN
    assert output == {"heard": "hello"}
    assert failed["error"] == "States.TaskFailed"
    assert '"Told"' in failed["cause"]


def test_conditional_writes_are_retried(cloud: Any, machines: Any) -> None:
    """A Retry on a failed condition tries again until the condition holds, as a queue for a lease does."""
    # GIVEN
    table = cloud.client("dynamodb")
    table.put_item(TableName="tokens", Item={"pk": {"S": "lease"}})
    put = task(
        "dynamodb:putItem",
        {"TableName": "tokens", "Item": {"pk": {"S": "lease"}}, "ConditionExpression": "attribute_not_exists(pk)"},
        Retry=[{"ErrorEquals": ["DynamoDb.ConditionalCheckFailedException"], "IntervalSeconds": 1, "MaxAttempts": 30}],
        Output={"tries": "{% $states.context.State.RetryCount %}"},
    )

    # WHEN
    execution = machines.start(put)
    table.delete_item(TableName="tokens", Key={"pk": {"S": "lease"}})
    ended = machines.finish(execution)

    # THEN
    assert ended["status"] == "SUCCEEDED", ended
