"""The walk through a definition by TestState, on the local cloud's interpreter and without its server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horovod_client import Fleet
from horovod_client.doctor.deep.mocks import MockMaker, example_request
from horovod_client.doctor.deep.walk import Untestable, Verdict, Walk
from horovod_local import corrections
from horovod_local.corrections.step_functions.teststate_api import RequestRefused, run_state

FLEET = Fleet(id="Fleet", max_gpus=4, gpu_step=1, types={"g5.xlarge": 1})
EXECUTION = "arn:aws:states:eu-west-1:123456789012:execution:Run:doctor"
SDK = "arn:aws:states:::aws-sdk:"


@pytest.fixture(scope="module", autouse=True)
def corrected() -> None:
    """Evaluate JSONata as Step Functions does."""
    corrections.apply()


def walk(states: dict[str, Any], start: str) -> dict[str, Verdict]:
    """Walk through a machine of *states*."""

    def ask(**arguments: Any) -> dict[str, Any]:
        try:
            return run_state(arguments.get, account="123456789012", region="eu-west-1")
        except RequestRefused as refusal:
            raise Untestable(str(refusal)) from refusal

    definition = json.dumps({"QueryLanguage": "JSONata", "StartAt": start, "States": states})
    mocks = MockMaker(definition, fleet=FLEET)
    steps = Walk(ask, definition=definition, given=example_request(FLEET), execution=EXECUTION, mocks=mocks)
    return {verdict.state: verdict for verdict in steps.verdicts()}


def machine(**changes: Any) -> dict[str, Any]:
    """A machine of every kind of state, with *changes* to the task `Look`."""
    return {
        "Begin": {"Type": "Pass", "Assign": {"group": "{% $states.input.source %}", "found": []}, "Next": "Look"},
        "Look": {
            "Type": "Task",
            "Resource": f"{SDK}autoscaling:describeAutoScalingGroups",
            "Arguments": {"AutoScalingGroupNames": ["{% $group %}"]},
            "Assign": {"zones": "{% $states.result.AutoScalingGroups[0].VpcZoneIdentifier %}"},
            "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 3}],
            "Catch": [{"ErrorEquals": ["States.ALL"], "Assign": {"zones": ""}, "Next": "Found?"}],
            "Next": "Found?",
            **changes,
        },
        "Found?": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $zones = 'nowhere' %}", "Next": "Each"}],
            "Default": "Fail",
        },
        "Each": {
            "Type": "Map",
            "Items": "{% $found %}",
            "ItemProcessor": {
                "StartAt": "Pause",
                "States": {
                    "Pause": {"Type": "Wait", "Seconds": "{% 100 + 43 %}", "Next": "Ask"},
                    "Ask": {
                        "Type": "Task",
                        "Resource": f"{SDK}dynamodb:getItem",
                        "Arguments": {"TableName": "t", "Key": {"pk": {"S": "{% $states.input.run %}"}}},
                        "Output": "{% $number($states.result.Item.expires_at.N) %}",
                        "End": True,
                    },
                },
            },
            "Next": "Fail",
        },
        "Fail": {"Type": "Fail", "Error": "Failed", "Cause": "{% $group %}"},
    }


def test_tests_every_state_with_results_and_errors() -> None:
    """Every state is tested, also one that no value leads into, with the variables of its branch."""
    # WHEN
    verdicts = walk(machine(), "Begin")
    # THEN
    assert {name: verdict.problem for name, verdict in verdicts.items()} == dict.fromkeys(
        ("Begin", "Look", "Found?", "Fail", "Each", "Pause", "Ask"), ""
    )
    error = "AutoScaling.InvalidNextTokenException"
    assert verdicts["Look"].tried == ("a result", "an empty result", error, error)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"Assign": {"zones": "{% $states.result.AutoScalingGroups[0].VPCZoneIdentifier %}"}},
            "given a result: States.QueryEvaluationError",
        ),
        ({"Arguments": {"AutoScalingGroupNames": ["{% $gruop %}"]}}, "$gruop"),
        ({"Resource": f"{SDK}autoscaling:describeGroups"}, "botocore has no model of the call"),
        (
            {"Assign": {"zones": "{% $states.result.AutoScalingGroups.MinSise > 0 ? 'a' : 'b' %}"}},
            "it reads $states.result.AutoScalingGroups.MinSise, but DescribeAutoScalingGroups returns no 'MinSise'",
        ),
        (
            {"Catch": [{"ErrorEquals": ["States.ALL"], "Assign": {"zones": "{% $nothing %}"}, "Next": "Found?"}]},
            "given AutoScaling.InvalidNextTokenException: States.QueryEvaluationError",
        ),
    ],
)
def test_tells_what_would_fail(change: dict[str, Any], said: str) -> None:
    """The walk finds a misspelt member, an unset variable, a call that does not exist and a broken catcher."""
    # WHEN
    verdicts = walk(machine(**change), "Begin")
    # THEN
    assert said in verdicts["Look"].problem
    assert {name for name, verdict in verdicts.items() if verdict.problem} >= {"Look"}
