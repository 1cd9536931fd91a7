"""EventBridge around state machines, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local.deployment.schedules import period_seconds
from support.waiting import eventually

ROLE = "arn:aws:iam::123456789012:role/any"


@pytest.fixture
def queue(cloud: Any) -> str:
    """The URL of a queue of its own."""
    return str(cloud.client("sqs").create_queue(QueueName=f"queue-{uuid.uuid4()}")["QueueUrl"])


def arn_of(cloud: Any, queue: str) -> str:
    """The ARN of a queue."""
    attributes = cloud.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    return str(attributes["QueueArn"])


def messages(cloud: Any, queue: str) -> list[Any]:
    """Take what is in the queue."""
    received = cloud.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
    return [json.loads(message["Body"]) for message in received]


def rule(cloud: Any, pattern: dict[str, Any], **target: Any) -> str:
    """Send what matches *pattern* to *target*; name the rule."""
    events, name = cloud.client("events"), f"rule-{uuid.uuid4()}"
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "1", **target}])
    return name


def publishing(topic: Any) -> dict[str, Any]:
    """A statement that lets EventBridge publish: without a policy of its own, a topic lets only its account."""
    principal = {"Service": "events.amazonaws.com"}
    return {"Effect": "Allow", "Principal": principal, "Action": "sns:Publish", "Resource": topic}


def test_executions_emit_status_events(cloud: Any, machines: Any, queue: str) -> None:
    """An execution that starts and fails emits RUNNING and FAILED, with its error and cause."""
    # GIVEN
    failing = machines.create({"StartAt": "Fail", "States": {"Fail": {"Type": "Fail", "Error": "E", "Cause": "c"}}})
    rule(
        cloud,
        {"source": ["aws.states"], "detail": {"stateMachineArn": [failing]}},
        Arn=arn_of(cloud, queue),
    )

    # WHEN
    execution = machines.api.start_execution(stateMachineArn=failing, input='{"a": 1}')["executionArn"]
    machines.finish(execution)

    # THEN
    seen: list[Any] = []

    def receive() -> list[Any]:
        seen.extend(messages(cloud, queue))
        return seen

    eventually(receive, lambda events: len(events) == 2)
    details = sorted((event["detail"] for event in seen), key=lambda detail: detail["status"], reverse=True)
    assert [detail["status"] for detail in details] == ["RUNNING", "FAILED"]
    assert {event["detail-type"] for event in seen} == {"Step Functions Execution Status Change"}
    described = machines.api.describe_execution(executionArn=execution)
    assert details[1] == {
        "executionArn": execution,
        "stateMachineArn": failing,
        "name": execution.rpartition(":")[2],
        "status": "FAILED",
        "startDate": int(described["startDate"].timestamp() * 1000),
        "stopDate": int(described["stopDate"].timestamp() * 1000),
        "input": '{"a": 1}',
        "inputDetails": {"included": True},
        "output": None,
        "outputDetails": None,
        "stateMachineVersionArn": None,
        "stateMachineAliasArn": None,
        "redriveCount": 0,
        "redriveDate": None,
        "redriveStatus": "REDRIVABLE",
        "redriveStatusReason": None,
        "error": "E",
        "cause": "c",
    }
    assert (details[0]["stopDate"], details[0]["error"], details[0]["cause"]) == (None, None, None)


def test_stopped_executions_emit_one_event(cloud: Any, machines: Any, queue: str) -> None:
    """A stopped execution emits ABORTED, once."""
    # GIVEN
    waiting = machines.create({"Type": "Wait", "Seconds": 60})
    pattern = {"source": ["aws.states"], "detail": {"stateMachineArn": [waiting], "status": ["ABORTED", "SUCCEEDED"]}}
    rule(cloud, pattern, Arn=arn_of(cloud, queue))
    execution = machines.api.start_execution(stateMachineArn=waiting)["executionArn"]

    # WHEN
    machines.api.stop_execution(executionArn=execution)

    # THEN
    seen = eventually(lambda: messages(cloud, queue))
    assert [event["detail"]["status"] for event in seen] == ["ABORTED"]
    assert messages(cloud, queue) == []


def test_rules_start_state_machines_and_publish(cloud: Any, machines: Any, queue: str) -> None:
    """A rule starts a state machine with the event, or its input, and publishes to a topic."""
    # GIVEN
    sns = cloud.client("sns")
    topic = sns.create_topic(Name=f"topic-{uuid.uuid4()}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of(cloud, queue))
    policy = json.dumps({"Version": "2012-10-17", "Statement": [publishing(topic)]})
    sns.set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    machine = machines.create({"Type": "Pass"})
    source = f"source-{uuid.uuid4()}"
    rule(cloud, {"source": [source]}, Arn=machine, RoleArn=ROLE)
    rule(cloud, {"source": [source]}, Arn=topic, Input='{"said": "input"}')

    # WHEN
    entry = {"Source": source, "DetailType": "x", "Detail": '{"word": "hello"}'}
    answer = cloud.client("events").put_events(Entries=[entry])

    # THEN
    assert answer["FailedEntryCount"] == 0
    started = eventually(lambda: machines.api.list_executions(stateMachineArn=machine)["executions"])
    event = json.loads(machines.finish(started[0]["executionArn"])["output"])
    assert (event["source"], event["detail"]) == (source, {"word": "hello"})
    assert (event["account"], event["region"], event["version"]) == ("123456789012", "eu-west-1", "0")
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    published = eventually(lambda: messages(cloud, queue))
    assert json.loads(published[0]["Message"]) == {"said": "input"}


def test_large_inputs_are_left_out_of_events(cloud: Any, machines: Any, queue: str) -> None:
    """An event says of an input that is too large for it that it is not included."""
    # GIVEN
    machine = machines.create({"Type": "Pass", "Output": "small"})
    pattern = {"source": ["aws.states"], "detail": {"stateMachineArn": [machine], "status": ["SUCCEEDED"]}}
    rule(cloud, pattern, Arn=arn_of(cloud, queue))

    # WHEN
    machines.api.start_execution(stateMachineArn=machine, input=json.dumps({"large": "x" * 255_000}))

    # THEN
    detail = eventually(lambda: messages(cloud, queue))[0]["detail"]
    assert (detail["input"], detail["inputDetails"]) == (None, {"included": False})
    assert (detail["output"], detail["outputDetails"]) == ('"small"', {"included": True})


@pytest.mark.parametrize(
    ("target", "received"),
    [
        ({"InputPath": "$.detail"}, {"word": 'a "b"', "number": 1}),
        (
            {
                "InputTransformer": {
                    "InputPathsMap": {"word": "$.detail.word", "detail": "$.detail", "none": "$.detail.none"},
                    "InputTemplate": '{"word":<word>,"detail":<detail>,"quoted":"<word>","none":<none>}',
                }
            },
            {"word": 'a "b"', "detail": {"word": 'a "b"', "number": 1}, "quoted": 'a "b"', "none": ""},
        ),
    ],
)
def test_rules_shape_their_input(cloud: Any, machines: Any, target: dict[str, Any], received: Any) -> None:
    """A target receives the part of the event that its rule names, or the rule's template filled in."""
    # GIVEN
    machine, source = machines.create({"Type": "Pass"}), f"source-{uuid.uuid4()}"
    rule(cloud, {"source": [source]}, Arn=machine, RoleArn=ROLE, **target)

    # WHEN
    detail = json.dumps({"word": 'a "b"', "number": 1})
    cloud.client("events").put_events(Entries=[{"Source": source, "DetailType": "x", "Detail": detail}])

    # THEN
    started = eventually(lambda: machines.api.list_executions(stateMachineArn=machine)["executions"])
    assert json.loads(machines.finish(started[0]["executionArn"])["output"]) == received


def test_disabled_rules_do_not_fire(cloud: Any, machines: Any) -> None:
    """A rule that is disabled lets events pass, and one that is enabled again does not."""
    # GIVEN
    events, machine, source = cloud.client("events"), machines.create({"Type": "Pass"}), f"source-{uuid.uuid4()}"
    name = rule(cloud, {"source": [source]}, Arn=machine, RoleArn=ROLE)
    entry = {"Source": source, "DetailType": "x"}

    # WHEN
    events.disable_rule(Name=name)
    events.put_events(Entries=[{**entry, "Detail": '{"enabled": false}'}])
    events.enable_rule(Name=name)
    events.put_events(Entries=[{**entry, "Detail": '{"enabled": true}'}])

    # THEN
    started = eventually(lambda: machines.api.list_executions(stateMachineArn=machine)["executions"])
    inputs = [machines.api.describe_execution(executionArn=item["executionArn"])["input"] for item in started]
    assert [json.loads(text)["detail"] for text in inputs] == [{"enabled": True}]


def test_schedules_take_no_events(cloud: Any, machines: Any) -> None:
    """A rule that has a schedule alone is not fired by an event."""
    # GIVEN
    events, machine = cloud.client("events"), machines.create({"Type": "Pass"})
    name = f"rule-{uuid.uuid4()}"
    events.put_rule(Name=name, ScheduleExpression="rate(7 days)")
    events.put_targets(Rule=name, Targets=[{"Id": "1", "Arn": machine, "RoleArn": ROLE}])

    # WHEN
    events.put_events(Entries=[{"Source": "any", "DetailType": "x", "Detail": "{}"}])

    # THEN
    assert machines.api.list_executions(stateMachineArn=machine)["executions"] == []


def test_schedules_fire_by_time(cloud: Any, stacks: Any, machines: Any, queue: str) -> None:
    """A template's rule with a rate fires its targets again and again, until it is disabled."""
    # GIVEN
    machine = machines.create({"Type": "Pass"})
    topic = {"Type": "AWS::SNS::Topic"}
    subscription = {
        "Type": "AWS::SNS::Subscription",
        "Properties": {"TopicArn": {"Ref": "Topic"}, "Protocol": "sqs", "Endpoint": arn_of(cloud, queue)},
    }
    let_in = {
        "Type": "AWS::SNS::TopicPolicy",
        "Properties": {
            "Topics": [{"Ref": "Topic"}],
            "PolicyDocument": {"Version": "2012-10-17", "Statement": [publishing({"Ref": "Topic"})]},
        },
    }
    targets = [
        {"Id": "Machine", "Arn": machine, "RoleArn": ROLE},
        {"Id": "Topic", "Arn": {"Ref": "Topic"}, "Input": '{"said": "input"}'},
    ]
    schedule = {
        "Type": "AWS::Events::Rule",
        "Properties": {"ScheduleExpression": "rate(1 minute)", "State": "ENABLED", "Targets": targets},
    }

    # WHEN
    stack = stacks.create(
        {
            "Resources": {"Topic": topic, "LetIn": let_in, "Subscription": subscription, "Schedule": schedule},
            "Outputs": {"Name": {"Value": {"Ref": "Schedule"}}, "Arn": {"Value": {"Fn::GetAtt": ["Schedule", "Arn"]}}},
        }
    )

    # THEN
    def executions() -> list[Any]:
        return list(machines.api.list_executions(stateMachineArn=machine)["executions"])

    started = eventually(executions, lambda found: len(found) >= 2)
    event = json.loads(machines.api.describe_execution(executionArn=started[0]["executionArn"])["input"])
    assert (event["source"], event["detail-type"], event["detail"]) == ("aws.events", "Scheduled Event", {})
    assert event["resources"] == [stack["outputs"]["Arn"]]
    assert json.loads(eventually(lambda: messages(cloud, queue))[0]["Message"]) == {"said": "input"}

    # WHEN
    cloud.client("events").disable_rule(Name=stack["outputs"]["Name"])
    other = machines.create({"Type": "Pass"})
    name = f"rule-{uuid.uuid4()}"
    cloud.client("events").put_rule(Name=name, ScheduleExpression="rate(1 minute)")
    cloud.client("events").put_targets(Rule=name, Targets=[{"Id": "1", "Arn": other, "RoleArn": ROLE}])

    def until_it_fires(times: int) -> None:
        found = eventually(
            lambda: machines.api.list_executions(stateMachineArn=other)["executions"], lambda found: len(found) >= times
        )
        assert len(found) >= times

    # THEN what was about to fire has fired by the time that another rule does, and nothing more comes
    until_it_fires(1)
    count = len(executions())
    until_it_fires(3)
    cloud.client("events").disable_rule(Name=name)
    assert len(executions()) == count


def test_rules_for_events_of_ecs_are_refused(cloud: Any, stacks: Any) -> None:
    """No event of ECS is sent here, so a rule that waits for one is refused."""
    # GIVEN
    events, pattern = cloud.client("events"), {"source": ["aws.ecs"], "detail-type": ["ECS Task State Change"]}

    # WHEN, THEN
    with pytest.raises(ClientError, match=r"sends no events of aws\.ecs"):
        events.put_rule(Name=f"rule-{uuid.uuid4()}", EventPattern=json.dumps(pattern))
    rule = {"Type": "AWS::Events::Rule", "Properties": {"EventPattern": pattern}}
    assert "sends no events of aws.ecs" in stacks.create({"Resources": {"Rule": rule}})["StackStatusReason"]


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("rate(1 minute)", 60),
        ("rate(5 minutes)", 300),
        ("rate(1 hour)", 3600),
        ("rate(2 days)", 172800),
        ("cron(0 12 * * ? *)", None),
        (None, None),
    ],
)
def test_periods(expression: str | None, seconds: float | None) -> None:
    """A rate says how often; what is no rate has no period."""
    # WHEN, THEN
    assert period_seconds(expression) == seconds
