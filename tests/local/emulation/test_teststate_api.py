"""TestState, against AWS's documented behaviour (API Reference, "TestState" and "MockInput")."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

CONTENTION, REFUSED = "AutoScaling.ResourceContentionException", "AutoScaling.AutoScalingException"
SDK = "arn:aws:states:::aws-sdk:"
LOOK = {
    "Type": "Task",
    "Resource": f"{SDK}autoscaling:describeAutoScalingGroups",
    "Arguments": {"AutoScalingGroupNames": ["{% $group %}"]},
    "Assign": {"subnets": "{% $states.result.AutoScalingGroups[0].VpcZoneIdentifier %}"},
    "Output": {"run": "{% $states.context.Execution.Name %}"},
    "Retry": [
        {
            "ErrorEquals": ["AutoScaling.ResourceContentionException"],
            "IntervalSeconds": 2,
            "BackoffRate": 3,
            "MaxAttempts": 2,
        }
    ],
    "Catch": [
        {
            "ErrorEquals": [REFUSED],
            "Assign": {"why": "{% $states.errorOutput.Cause %}"},
            "Next": "Give up",
        }
    ],
    "Next": "Full?",
}
MACHINE = {
    "QueryLanguage": "JSONata",
    "StartAt": "Look",
    "States": {
        "Look": LOOK,
        "Full?": {"Type": "Choice", "Choices": [{"Condition": "{% $full %}", "Next": "Look"}], "Default": "Each"},
        "Each": {
            "Type": "Map",
            "Items": "{% $names %}",
            "ItemProcessor": {
                "StartAt": "One",
                "States": {"One": {"Type": "Pass", "Output": "{% 'is ' & $states.input %}", "End": True}},
            },
            "Assign": {"each": "{% $states.result %}"},
            "Next": "Ask",
        },
        "Ask": {
            "Type": "Task",
            "Resource": f"{SDK}dynamodb:putItem.waitForTaskToken",
            "HeartbeatSeconds": 60,
            "Arguments": {"TableName": "t", "Item": {"token": {"S": "{% $states.context.Task.Token %}"}}},
            "Assign": {"ring": "{% $states.result %}"},
            "Catch": [{"ErrorEquals": ["States.HeartbeatTimeout"], "Next": "Give up"}],
            "End": True,
        },
        "Give up": {"Type": "Fail", "Error": "GaveUp", "Cause": "{% $why %}"},
    },
}
GROUP = {
    "AutoScalingGroupName": "gpus",
    "MinSize": 0,
    "MaxSize": 2,
    "DesiredCapacity": 2,
    "DefaultCooldown": 300,
    "AvailabilityZones": ["eu-west-1a"],
    "HealthCheckType": "EC2",
    "CreatedTime": "2026-01-01T00:00:00Z",
    "VpcZoneIdentifier": "subnet-1",
}


@pytest.fixture
def ask(machines: Any) -> Any:
    """Ask TestState for a state of the machine above."""

    def ask(state: str, **given: Any) -> dict[str, Any]:
        mock = given.pop("mock", None)
        if mock is not None:
            given["mock"] = {**mock, "fieldValidationMode": mock.get("fieldValidationMode", "STRICT")}
        texts = {
            key: json.dumps(item) if key in ("variables", "context", "input") else item for key, item in given.items()
        }
        answer = machines.api.test_state(
            definition=json.dumps(MACHINE), stateName=state, inspectionLevel="DEBUG", **texts
        )
        assert isinstance(answer, dict)
        return answer

    return ask


def groups(**group: Any) -> dict[str, Any]:
    """Mock an answer of one group."""
    return {"result": json.dumps({"AutoScalingGroups": [{**GROUP, **group}]})}


def test_teststate_runs_one_state(ask: Any) -> None:
    """A mocked result passes through Arguments, Assign and Output, and the next state is told."""
    # WHEN
    answer = ask(
        "Look",
        variables={"group": "gpus"},
        context={"Execution": {"Name": "digits"}},
        mock=groups(),
    )
    # THEN
    assert (answer["status"], answer["nextState"]) == ("SUCCEEDED", "Full?")
    assert json.loads(answer["output"]) == {"run": "digits"}
    seen = answer["inspectionData"]
    assert json.loads(seen["variables"]) == {"group": "gpus", "subnets": "subnet-1"}
    assert json.loads(seen["afterArguments"]) == {"AutoScalingGroupNames": ["gpus"]}


@pytest.mark.parametrize(
    ("mock", "said"),
    [
        (groups(VPCZoneIdentifier="subnet-1"), "has no field 'VPCZoneIdentifier'"),
        (groups(DesiredCapacity="2"), "AutoScalingGroups[0].DesiredCapacity must be of type integer, got '2'"),
        ({"result": '{"AutoScalingGroups": [{}]}'}, "lacks the field 'AutoScalingGroupName'"),
    ],
)
def test_a_mock_that_the_api_cannot_give_is_refused(ask: Any, mock: dict[str, Any], said: str) -> None:
    """STRICT knows the API's fields, their types, and which of them are always there."""
    # WHEN
    with pytest.raises(ClientError) as refused:
        ask("Look", variables={"group": "gpus"}, mock=mock)
    # THEN
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert said in str(refused.value)


def test_present_takes_a_mock_without_required_fields(ask: Any) -> None:
    """PRESENT looks only at the fields that are there."""
    # WHEN
    mock = {"result": '{"AutoScalingGroups": [{"VpcZoneIdentifier": "subnet-2"}]}', "fieldValidationMode": "PRESENT"}
    answer = ask("Look", variables={"group": "gpus"}, mock=mock)
    # THEN
    assert json.loads(answer["inspectionData"]["variables"])["subnets"] == "subnet-2"


def test_errors_are_caught_and_retried_as_the_state_says(ask: Any) -> None:
    """An error meets its catcher; another one its retrier, until that has no attempts left."""
    # GIVEN
    variables = {"group": "gpus"}
    contention = {"errorOutput": {"error": CONTENTION, "cause": "busy"}}
    # WHEN
    caught = ask("Look", variables=variables, mock={"errorOutput": {"error": REFUSED, "cause": "no"}})
    retried = ask("Look", variables=variables, mock=contention, stateConfiguration={"retrierRetryCount": 1})
    spent = ask("Look", variables=variables, mock=contention, stateConfiguration={"retrierRetryCount": 2})
    # THEN
    assert (caught["status"], caught["nextState"], caught["cause"]) == ("CAUGHT_ERROR", "Give up", "no")
    assert json.loads(caught["inspectionData"]["variables"])["why"] == "no"
    assert caught["inspectionData"]["errorDetails"] == {"catchIndex": 0}
    assert (retried["status"], retried["inspectionData"]["errorDetails"]) == (
        "RETRIABLE",
        {"retryIndex": 0, "retryBackoffIntervalSeconds": 6},
    )
    assert (spent["status"], spent["error"]) == ("FAILED", CONTENTION)


def test_an_undefined_variable_fails_the_state(ask: Any) -> None:
    """The error is that of an execution, and names the expression."""
    # WHEN
    answer = ask("Look", variables={}, mock=groups())
    # THEN
    assert (answer["status"], answer["error"]) == ("FAILED", "States.QueryEvaluationError")
    assert "$group" in answer["cause"]


def test_a_token_task_takes_any_answer(ask: Any) -> None:
    """What comes back by a task token is described by no API; its errors are caught by name."""
    # WHEN
    answered = ask("Ask", variables={}, mock={"result": '{"gpus": 2}'})
    silent = ask("Ask", variables={"why": ""}, mock={"errorOutput": {"error": "States.HeartbeatTimeout", "cause": ""}})
    # THEN
    assert "nextState" not in answered
    assert json.loads(answered["inspectionData"]["variables"]) == {"ring": {"gpus": 2}}
    assert (silent["status"], silent["nextState"]) == ("CAUGHT_ERROR", "Give up")


def test_a_map_is_tested_with_what_its_iterations_give(ask: Any) -> None:
    """The mock is the array of all iterations' outputs; a state inside is tested by its own name."""
    # WHEN
    inside = ask("One", input="a")
    whole = ask("Each", variables={"names": ["a", "b"]}, mock={"result": '["is a", "is b"]'})
    # THEN
    assert (inside["status"], json.loads(inside["output"])) == ("SUCCEEDED", "is a")
    assert json.loads(whole["inspectionData"]["afterItemSelector"]) == ["a", "b"]
    assert json.loads(whole["inspectionData"]["variables"])["each"] == ["is a", "is b"]


def test_choices_and_failures_need_no_mock(ask: Any) -> None:
    """A Choice tells where it goes, a Fail state its error; neither takes a mock."""
    # WHEN
    choice = ask("Full?", variables={"full": False})
    failure = ask("Give up", variables={"why": "no room"})
    with pytest.raises(ClientError, match="only be specified for Task, Map, or Parallel"):
        ask("Full?", variables={"full": True}, mock={"result": "{}"})
    with pytest.raises(ClientError, match="only be specified if a mock is"):
        ask("Full?", variables={"full": True}, context={"Execution": {"Name": "digits"}})
    # THEN
    assert (choice["status"], choice["nextState"]) == ("SUCCEEDED", "Each")
    assert (failure["status"], failure["error"], failure["cause"]) == ("FAILED", "GaveUp", "no room")


def test_states_that_start_something_need_a_mock(ask: Any) -> None:
    """Map states and token tasks are refused without one."""
    # THEN
    for state in ("Each", "Ask"):
        with pytest.raises(ClientError, match="only be tested with a mock"):
            ask(state, variables={})
