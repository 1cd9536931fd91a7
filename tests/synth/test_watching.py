"""`TrainingDashboard`, `RunNotifications`, and the metrics that they and a user's own alarms use."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_sns as sns

from cdk_horovod import RunNotifications, TrainingDashboard
from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated, training_in

pytestmark = pytest.mark.synth

ON_CALL = "arn:aws:sns:eu-west-1:123456789012:on-call"


def build(app: App) -> None:
    """Build one training with its dashboard, which notifies a topic of its own and one that the team has."""
    stack = Stack(app, "Team")
    training = training_in(stack)
    TrainingDashboard(stack, "Dashboard", training=training, name="digits")
    RunNotifications(stack, "Ends", training=training)
    topic = sns.Topic.from_topic_arn(stack, "OnCall", ON_CALL)
    RunNotifications(stack, "Failures", training=training, topic=topic, on=["FAILED"])


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("watching"), build)


@pytest.fixture(scope="module")
def widgets(stacks: Stacks) -> dict[str, list[Any]]:
    """Give the dashboard's widgets: title to metrics."""
    dashboard = stacks.resource("Team", "AWS::CloudWatch::Dashboard")
    assert dashboard["DashboardName"] == "digits"
    body = json.loads(flat(dashboard["DashboardBody"]))
    return {widget["properties"]["title"]: widget["properties"]["metrics"] for widget in body["widgets"]}


def test_dashboard_answers_what_people_ask(widgets: dict[str, list[Any]]) -> None:
    """The dashboard shows runs, cost, what was left running, and each run's speed and GPUs."""
    assert list(widgets) == [
        "Runs",
        "Cost of running runs, % of their ceilings",
        "Left running",
        "Samples per second",
        "Seconds per step, all runs",
        "Seconds per step, median",
        "GPUs in the ring",
        "GPU utilisation, %",
        "GPU memory in use, %",
        "Bytes read",
    ]
    assert [metric[1] for metric in widgets["Runs"]] == [
        "ExecutionsStarted",
        "ExecutionsSucceeded",
        "ExecutionsFailed",
        "ExecutionsTimedOut",
    ]
    steps = [(*metric[:4], metric[4]["stat"]) for metric in widgets["Seconds per step, all runs"]]
    of_all = ("CdkHorovod", "StepSeconds", "Training", "TeamTraining64F7C29B")
    assert [step[:3] for step in steps] == [of_all[:3]] * 3
    assert [step[4] for step in steps] == ["p50", "p90", "p99"]


def test_dashboard_finds_every_run(widgets: dict[str, list[Any]]) -> None:
    """The dashboard searches for runs within this training, because their names are not known in advance."""
    # WHEN
    searches = {
        title: match
        for title, ((metric, *_), *_) in widgets.items()
        if isinstance(metric, dict)
        and (
            match := re.fullmatch(
                r"SEARCH\('\{CdkHorovod,Training,Run\} MetricName=\"(\w+)\" Training=\"(\w+)\"', '(\w+)', 60\)",
                metric["expression"],
            )
        )
    }

    # THEN
    assert {title: (match[1], match[3]) for title, match in searches.items()} == {
        "Samples per second": ("SamplesPerSecond", "Average"),
        "Seconds per step, median": ("StepSeconds", "p50"),
        "GPUs in the ring": ("RingSize", "Average"),
        "GPU utilisation, %": ("GpuUtilization", "Average"),
        "GPU memory in use, %": ("GpuMemoryUtilization", "Average"),
        "Bytes read": ("BytesRead", "Sum"),
    }
    ((_, _, _, training, _), *_) = widgets["Seconds per step, all runs"]
    assert {match[2] for match in searches.values()} == {training}


def test_metrics_are_those_that_nodes_send() -> None:
    """A metric of all runs or of one has the name and the dimensions of the contract."""
    # GIVEN
    training = training_in(Stack(App(), "Team"))

    # WHEN
    metrics = (
        training.metric_samples_per_second(),
        training.metric_step_time(statistic="p90", run="digits-1"),
        training.metric_ring_size(),
        training.metric_gpu_utilization(run="digits-1", period=Duration.minutes(5)),
        training.metric_gpu_memory(),
        training.metric_bytes_read(),
    )

    # THEN
    of_all, of_one = {"Training": training.queue}, {"Training": training.queue, "Run": "digits-1"}
    assert [
        (metric.metric_name, metric.statistic, metric.period.to_seconds(), metric.dimensions) for metric in metrics
    ] == [
        (contract.METRIC_SAMPLES_PER_SECOND, "Average", 60, of_all),
        (contract.METRIC_STEP_SECONDS, "p90", 60, of_one),
        (contract.METRIC_RING_SIZE, "Maximum", 60, of_all),
        (contract.METRIC_GPU_UTILIZATION, "Average", 300, of_one),
        (contract.METRIC_GPU_MEMORY, "Average", 60, of_all),
        (contract.METRIC_BYTES_READ, "Sum", 60, of_all),
    ]
    assert {metric.namespace for metric in metrics} == {"CdkHorovod"}


def test_notifications_are_one_sentence(stacks: Stacks) -> None:
    """A notification says which run ended and how, and the command that shows more."""
    # WHEN
    rule = stacks.resource("Team", "AWS::Events::Rule", id="EndsRule")

    # THEN
    (machine,) = stacks.resources("Team", "AWS::StepFunctions::StateMachine", id="TrainingStateMachine")
    assert rule["EventPattern"] == {
        "source": ["aws.states"],
        "detail-type": ["Step Functions Execution Status Change"],
        "detail": {"stateMachineArn": [{"Ref": machine}], "status": ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"]},
    }
    ((target),) = rule["Targets"]
    assert target["InputTransformer"]["InputPathsMap"] == {
        "detail-name": "$.detail.name",
        "detail-status": "$.detail.status",
    }
    sentence = json.loads(target["InputTransformer"]["InputTemplate"])
    assert re.fullmatch(
        r"Run <detail-name> of \w+ is <detail-status>\. What became of it: cdk-horovod receipt <detail-name>", sentence
    )


def test_notifications_publish_as_a_role_of_their_own(stacks: Stacks) -> None:
    """Only the rule's role may publish and use the key, and no service in its own name."""
    # GIVEN
    (topic,) = stacks.resources("Team", "AWS::SNS::Topic", id="Ends")
    (key,) = stacks.resources("Team", "AWS::KMS::Key", id="Ends")
    (policy,) = stacks.resources("Team", "AWS::SNS::TopicPolicy").values()

    # THEN
    allowed = {flat(each["Resource"]): each["Action"] for each in stacks.statements("Team", role="EndsRole")}
    assert allowed == {topic: "sns:Publish", key: ["kms:Decrypt", "kms:GenerateDataKey*"]}
    (refused,) = policy["PolicyDocument"]["Statement"]
    assert (refused["Effect"], refused["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    given = {flat(each["Resource"]): each["Action"] for each in stacks.statements("Team", role="FailuresRole")}
    assert given == {ON_CALL: "sns:Publish"}
    only = stacks.resource("Team", "AWS::Events::Rule", id="FailuresRule")["EventPattern"]["detail"]["status"]
    assert only == ["FAILED"]


@pytest.mark.parametrize(("on", "got"), [([], "none"), (["SUCCEEDED", "DONE"], "DONE")])
def test_fails_when_it_would_tell_nothing(on: list[str], got: str) -> None:
    """A status that no execution has is refused by name."""
    stack = Stack(App(), "Team")
    with pytest.raises(ValueError, match=rf"^'on' must be one or more of RUNNING, .*, got {got}$"):
        RunNotifications(stack, "Ends", training=training_in(stack), on=on)
