"""`TrainingAlarms`: what is watched, what missing data means, and that CloudWatch may publish to the topic."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk import App, Stack
from aws_cdk import aws_sns as sns

from cdk_horovod import TrainingAlarms
from support.construct_stacks import Resource, Stacks, synthesise_validated, training_in

pytestmark = pytest.mark.synth


def build(app: App) -> None:
    """Build one training that is watched twice: with a topic of the alarms' own, and with one that the team has."""
    stack = Stack(app, "Team")
    training = training_in(stack)
    TrainingAlarms(stack, "Alarms", training=training)
    topic = sns.Topic.from_topic_arn(stack, "OnCall", "arn:aws:sns:eu-west-1:123456789012:on-call")
    TrainingAlarms(stack, "Quiet", training=training, topic=topic, ceiling_percent=95.5)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("monitoring"), build)


def alarms(stacks: Stacks, of: str) -> dict[str, Resource]:
    """Find the alarms of one construct: id to properties."""
    found = stacks.resources("Team", "AWS::CloudWatch::Alarm", id=of)
    return {name.removeprefix(of)[:-8]: alarm for name, alarm in found.items()}


def metrics_of(alarm: Resource) -> set[str]:
    """Name the metrics that an alarm reads, whether it reads one or an expression of several."""
    if "MetricName" in alarm:
        return {alarm["MetricName"]}
    return {part["MetricStat"]["Metric"]["MetricName"] for part in alarm["Metrics"] if "MetricStat" in part}


def test_watches_what_the_layers_tell(stacks: Stacks) -> None:
    """Each layer of termination has its alarm, on the metrics that it puts."""
    assert {name: metrics_of(alarm) for name, alarm in alarms(stacks, "Alarms").items()} == {
        "CapacityWithoutLease": {"CapacityWithoutLease"},
        "CleanUpFailed": {"ExecutionsFailed", "ExecutionsAborted", "ExecutionsTimedOut", "FailedInvocations"},
        "ReaperFailed": {"ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsStarted"},
        "Reaped": {"Reaped"},
        "RunFailed": {"ExecutionsFailed", "ExecutionsTimedOut"},
        "CeilingNear": {"CeilingUsed"},
    }


def test_any_find_is_an_alarm_and_most_of_a_ceiling(stacks: Stacks) -> None:
    """One event is enough for every alarm but the ceiling's, whose percentage is 80 unless told."""
    # WHEN
    thresholds = {
        name: (alarm["Threshold"], alarm["ComparisonOperator"], alarm["EvaluationPeriods"])
        for of in ("Alarms", "Quiet")
        for name, alarm in ((f"{of}{each}", found) for each, found in alarms(stacks, of).items())
    }
    # THEN
    assert thresholds.pop("AlarmsCeilingNear") == (80, "GreaterThanThreshold", 1)
    assert thresholds.pop("QuietCeilingNear") == (95.5, "GreaterThanThreshold", 1)
    assert set(thresholds.values()) == {(0, "GreaterThanThreshold", 1)}


def test_silence_is_an_alarm_only_of_the_reaper(stacks: Stacks) -> None:
    """Missing data is an alarm of the reaper only, which has to look even when nothing runs."""
    assert {name: alarm["TreatMissingData"] for name, alarm in alarms(stacks, "Alarms").items()} == {
        "CapacityWithoutLease": "notBreaching",
        "CleanUpFailed": "notBreaching",
        "ReaperFailed": "breaching",
        "Reaped": "notBreaching",
        "RunFailed": "notBreaching",
        "CeilingNear": "notBreaching",
    }


def test_costs_what_the_documentation_says(stacks: Stacks) -> None:
    """CloudWatch bills each metric of an alarm: the docstring's 1.20 USD a month are twelve of them."""
    assert sum(len(metrics_of(alarm)) for alarm in alarms(stacks, "Alarms").values()) == 12
    assert "together 1.20 USD" in (TrainingAlarms.__doc__ or "")


def test_tells_the_topic_that_is_given_or_makes_one(stacks: Stacks) -> None:
    """All alarms publish to one topic, which is made, with a key, if none is given."""
    # GIVEN
    topics = stacks.resources("Team", "AWS::SNS::Topic")
    keys = stacks.resources("Team", "AWS::KMS::Key", id="Alarms")

    # THEN
    ((made, topic),) = topics.items()
    ((key, _),) = keys.items()
    assert topic == {"KmsMasterKeyId": {"Fn::GetAtt": [key, "Arn"]}}
    assert [alarm["AlarmActions"] for alarm in alarms(stacks, "Alarms").values()] == [[{"Ref": made}]] * 6
    given = "arn:aws:sns:eu-west-1:123456789012:on-call"
    assert [alarm["AlarmActions"] for alarm in alarms(stacks, "Quiet").values()] == [[given]] * 6


def test_alarms_of_the_account_may_publish(stacks: Stacks) -> None:
    """CloudWatch may use topic and key for this account, and nobody may publish without TLS."""
    # GIVEN
    policy = stacks.resource("Team", "AWS::SNS::TopicPolicy")["PolicyDocument"]["Statement"]
    key = stacks.resource("Team", "AWS::KMS::Key", id="Alarms")["KeyPolicy"]["Statement"]

    # WHEN
    permitted = [statement for statement in (*policy, *key) if "Service" in statement["Principal"]]

    # THEN
    assert [(statement["Principal"], statement["Action"], statement["Condition"]) for statement in permitted] == [
        (
            {"Service": "cloudwatch.amazonaws.com"},
            action,
            {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
        )
        for action in ("sns:Publish", ["kms:Decrypt", "kms:GenerateDataKey*"])
    ]
    (refused,) = [statement for statement in policy if statement["Effect"] == "Deny"]
    assert (refused["Principal"], refused["Condition"]) == ("*", {"Bool": {"aws:SecureTransport": "false"}})


def test_says_what_it_means_and_what_to_do(stacks: Stacks) -> None:
    """A description says in one or two sentences what an alarm means and what to do."""
    for alarm in alarms(stacks, "Quiet").values():
        description = alarm["AlarmDescription"]
        assert description.endswith(".")
        assert 1 <= description.count(". ") + 1 <= 2
        assert len(description) <= 1024
    assert "95.5 % of its max_cost_usd" in alarms(stacks, "Quiet")["CeilingNear"]["AlarmDescription"]


@pytest.mark.parametrize("ceiling_percent", [0, -1, 100.5, float("nan")])
def test_fails_when_the_percentage_is_none(ceiling_percent: Any) -> None:
    """A percentage that no run, or every run, would pass is refused by name."""
    # GIVEN
    stack = Stack(App(), "Team")

    # THEN
    with pytest.raises(ValueError, match=r"^'ceiling_percent' must be more than 0 and at most 100, got "):
        TrainingAlarms(stack, "Alarms", training=training_in(stack), ceiling_percent=ceiling_percent)
