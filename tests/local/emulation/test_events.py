"""EventBridge around state machines, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from patience import eventually


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


def rule(cloud: Any, pattern: dict[str, Any], **target: Any) -> None:
    """Send what matches *pattern* to *target*."""
    events, name = cloud.client("events"), f"rule-{uuid.uuid4()}"
    events.put_rule(Name=name, EventPattern=json.dumps(pattern))
    events.put_targets(Rule=name, Targets=[{"Id": "1", **target}])


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
    assert (details[1]["error"], details[1]["cause"], details[1]["executionArn"]) == ("E", "c", execution)
    assert json.loads(details[1]["input"]) == {"a": 1}


def test_stopped_executions_emit_one_event(cloud: Any, machines: Any, queue: str) -> None:
    """A stopped execution emits ABORTED, once."""
    # GIVEN
    waiting = machines.create({"Type": "Wait", "Seconds": 2})
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
    machine = machines.create({"Type": "Pass"})
    source = f"source-{uuid.uuid4()}"
    role = "arn:aws:iam::123456789012:role/any"
    rule(cloud, {"source": [source]}, Arn=machine, RoleArn=role)
    rule(cloud, {"source": [source]}, Arn=topic, Input='{"said": "input"}')

    # WHEN
    entry = {"Source": source, "DetailType": "x", "Detail": '{"word": "hello"}'}
    answer = cloud.client("events").put_events(Entries=[entry])

    # THEN
    assert answer["FailedEntryCount"] == 0
    started = eventually(lambda: machines.api.list_executions(stateMachineArn=machine)["executions"])
    event = json.loads(machines.finish(started[0]["executionArn"])["output"])
    assert (event["source"], event["detail"]) == (source, {"word": "hello"})
    published = eventually(lambda: messages(cloud, queue))
    assert json.loads(published[0]["Message"]) == {"said": "input"}
