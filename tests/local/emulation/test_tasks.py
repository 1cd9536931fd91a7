"""Calls of a state machine to AWS, against AWS's documented behaviour."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

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


def test_unknown_arguments_are_refused(machines: Any) -> None:
    """An argument that the API does not have fails the task instead of being left out."""
    # WHEN
    ended = machines.run(task("s3:listBuckets", {"Bukket": "tasks"}))

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.Runtime")
    assert "'Bukket' is not an argument of ListBuckets" in ended["cause"]


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
