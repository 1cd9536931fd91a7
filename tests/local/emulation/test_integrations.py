"""Single AWS calls of a state machine that a training run depends on, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

SDK = "arn:aws:states:::aws-sdk:"


def task(action: str, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A state that calls *action* with *arguments*."""
    return {"Type": "Task", "Resource": SDK + action, "Arguments": arguments, **fields}


def key() -> dict[str, Any]:
    """The key of an item of its own in the table `tokens`."""
    return {"pk": {"S": f"item-{uuid.uuid4()}"}}


def test_executions_are_described(machines: Any) -> None:
    """A state machine describes another execution; one that there never was is an error of its own."""
    # GIVEN
    other = machines.run({"Type": "Pass", "Output": {"a": 1}})["executionArn"]

    # WHEN
    described = machines.output(task("sfn:describeExecution", {"ExecutionArn": other}))
    missing = machines.run(task("sfn:describeExecution", {"ExecutionArn": f"{other}x"}))
    malformed = machines.run(task("sfn:describeExecution", {"ExecutionArn": "#reaper"}))

    # THEN
    assert (described["Status"], described["ExecutionArn"], described["Output"]) == ("SUCCEEDED", other, '{"a":1}')
    assert (missing["status"], missing["error"]) == ("FAILED", "Sfn.ExecutionDoesNotExistException")
    assert (malformed["status"], malformed["error"]) == ("FAILED", "Sfn.InvalidArnException")


def test_metrics_are_put(cloud: Any, machines: Any) -> None:
    """A state machine's metrics are CloudWatch's."""
    # GIVEN
    namespace = f"Space{uuid.uuid4().hex}"
    data = [
        {
            "MetricName": "Zombies",
            "Dimensions": [{"Name": "Fleet", "Value": "f"}],
            "Value": "{% 1 + 1 %}",
            "Unit": "Count",
        }
    ]

    # WHEN
    machines.output(task("cloudwatch:putMetricData", {"Namespace": namespace, "MetricData": data}))

    # THEN
    metrics = cloud.client("cloudwatch").list_metrics(Namespace=namespace)["Metrics"]
    assert [(item["MetricName"], item["Dimensions"]) for item in metrics] == [
        ("Zombies", [{"Name": "Fleet", "Value": "f"}])
    ]


def test_objects_are_put_once(cloud: Any, machines: Any) -> None:
    """PutObject with IfNoneMatch writes what is not there, and fails as HeadObject does on what is."""
    # GIVEN
    bucket = f"bucket-{uuid.uuid4()}"
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def put(body: Any) -> dict[str, Any]:
        return task("s3:putObject", {"Bucket": bucket, "Key": "once", "Body": body, "IfNoneMatch": "*"})

    # WHEN
    machines.output(put({"first": True}))
    second = machines.run(put({"second": True}))

    # THEN
    assert (second["status"], second["error"]) == ("FAILED", "S3.S3Exception")
    assert "Status Code: 412" in second["cause"]
    assert json.loads(s3.get_object(Bucket=bucket, Key="once")["Body"].read()) == {"first": True}


def test_transactions_are_all_or_nothing(cloud: Any, machines: Any) -> None:
    """A transaction whose condition fails writes nothing, and says which condition it was."""
    # GIVEN
    written, refused = key(), key()
    put = {"Put": {"TableName": "tokens", "Item": written}}
    check = {
        "Update": {
            "TableName": "tokens",
            "Key": refused,
            "UpdateExpression": "SET a = :one",
            "ConditionExpression": "a = :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
    }

    # WHEN
    ended = machines.run(task("dynamodb:transactWriteItems", {"TransactItems": [put, check]}))

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "DynamoDb.TransactionCanceledException")
    assert "[None, ConditionalCheckFailed]" in ended["cause"]
    assert "Item" not in cloud.client("dynamodb").get_item(TableName="tokens", Key=written)


def test_updates_give_all_attributes(machines: Any) -> None:
    """UpdateItem with ALL_NEW gives the whole item, and if_not_exists keeps what was there."""
    # GIVEN
    update = task(
        "dynamodb:updateItem",
        {
            "TableName": "tokens",
            "Key": key(),
            "UpdateExpression": "SET #place = if_not_exists(#place, :now), #waiter = :waiter",
            "ExpressionAttributeNames": {"#place": "PLACE#run", "#waiter": "WAITER#run"},
            "ExpressionAttributeValues": {
                ":now": {"N": "{% $string($millis()) %}"},
                ":waiter": {"M": {"gpus": {"N": "2"}}},
            },
            "ReturnValues": "ALL_NEW",
        },
    )

    # WHEN
    first = machines.output(update)["Attributes"]
    second = machines.output(update)["Attributes"]

    # THEN
    assert first["WAITER#run"] == {"M": {"gpus": {"N": "2"}}}
    assert second == first


def test_refused_updates_may_show_the_item(machines: Any) -> None:
    """A failed condition is an error by which a state machine goes on."""
    # GIVEN
    update = {
        "TableName": "tokens",
        "Key": key(),
        "UpdateExpression": "SET a = :one",
        "ConditionExpression": "attribute_exists(pk)",
        "ExpressionAttributeValues": {":one": {"N": "1"}},
    }
    caught = [{"ErrorEquals": ["DynamoDb.ConditionalCheckFailedException"], "Next": "Caught"}]
    states = {
        "Update": task("dynamodb:updateItem", update, Catch=caught, End=True),
        "Caught": {"Type": "Succeed", "Output": "{% $states.input.Error %}"},
    }

    # WHEN
    output = machines.output({"StartAt": "Update", "States": states})

    # THEN
    assert output == "DynamoDb.ConditionalCheckFailedException"


def iterate(items: str, states: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Map of the states *states*, the first of which is `First`, over *items*."""
    processor = {"ProcessorConfig": {"Mode": "INLINE"}, "StartAt": "First", "States": states}
    return {"Type": "Map", "Items": f"{{% {items} %}}", "ItemProcessor": processor, **fields}


def test_iterations_catch_their_own_errors(machines: Any) -> None:
    """An error inside an iteration is caught there, and the others go on; their variables are their own."""
    # GIVEN
    missing = {"ExecutionArn": "{% $states.input.arn %}"}
    catch = [
        {
            "ErrorEquals": ["Sfn.ExecutionDoesNotExistException"],
            "Assign": {"found": "{% $states.errorOutput.Error %}"},
            "Next": "Tell",
        }
    ]
    assign = {"found": "{% $states.result.Status %}", "outer": "{% $prefix & $states.input.name %}"}
    states = {
        "First": task("sfn:describeExecution", missing, Assign=assign, Catch=catch, Next="Tell"),
        "Tell": {"Type": "Pass", "Output": "{% $found %}", "End": True},
    }
    there = machines.run({"Type": "Pass"})["executionArn"]
    items = "[{'name': 'a', 'arn': $states.input.there}, {'name': 'b', 'arn': $states.input.there & 'x'}]"
    definition = {
        "StartAt": "Set",
        "States": {
            "Set": {"Type": "Pass", "Assign": {"prefix": "p-"}, "Next": "Each"},
            "Each": iterate(items, states, MaxConcurrency=2, End=True),
        },
    }

    # WHEN
    output = machines.output(definition, {"there": there})

    # THEN
    assert output == ["SUCCEEDED", "Sfn.ExecutionDoesNotExistException"]


def test_an_empty_map_is_an_empty_list(machines: Any) -> None:
    """A Map over nothing runs nothing and gives an empty list, also as $states.result."""
    # GIVEN
    state = iterate(
        "[]",
        {"First": {"Type": "Fail", "Error": "Never"}},
        Output={"count": "{% $count($states.result) %}", "all": "{% $states.result %}"},
    )

    # WHEN
    output = machines.output(state)

    # THEN
    assert output == {"count": 0, "all": []}


def test_failed_iterations_fail_the_map(machines: Any) -> None:
    """An error that no iteration catches is the Map's own, to be caught there."""
    # GIVEN
    each = iterate(
        "[1, 2]",
        {"First": {"Type": "Fail", "Error": "Mine", "Cause": "why"}},
        Catch=[{"ErrorEquals": ["Mine"], "Next": "Caught"}],
        End=True,
    )
    states = {"Each": each, "Caught": {"Type": "Succeed", "Output": "{% $states.input.Cause %}"}}

    # WHEN
    output = machines.output({"StartAt": "Each", "States": states})

    # THEN
    assert output == "why"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$toMillis('2026-08-17T10:00:00.500Z')", 1786960800500),
        ("$toMillis('2026-08-17T10:00:00Z')", 1786960800000),
        ("$fromMillis(1786960800500)", "2026-08-17T10:00:00.500Z"),
        ("$floor($toMillis($states.context.Execution.StartTime) / 1000) > 1700000000", True),
        ("$abs($millis() - $toMillis($now())) < 60000", True),
        ('$parse(\'{"terms": {"a": {"USD": "1.5"}}}\').terms.*.USD', "1.5"),
        ("$parse('[]')", []),
    ],
)
def test_times_and_texts_are_read(machines: Any, expression: str, value: Any) -> None:
    """Times are read and written as JSONata does it, and texts that are JSON are parsed."""
    # WHEN, THEN
    assert machines.output({"Type": "Pass", "Output": f"{{% {expression} %}}"}) == value
