"""Task tokens, against AWS's documented behaviour."""

from __future__ import annotations

import json
from typing import Any

import pytest

CAUSE = 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: "no" \u2713'


@pytest.fixture
def waiting(token_task: dict[str, Any]) -> dict[str, Any]:
    """A state that gives out a token and waits."""
    return {**token_task, "TimeoutSeconds": 240}


def caught(state: dict[str, Any], *errors: str) -> dict[str, Any]:
    """A machine of *state*, whose errors end in an output of error, cause and the name that caught them."""
    catchers = [
        {
            "ErrorEquals": [error],
            "Next": "Caught",
            "Output": {
                "by": error,
                "error": "{% $states.errorOutput.Error %}",
                "cause": "{% $states.errorOutput.Cause %}",
            },
        }
        for error in errors
    ]
    return {
        "StartAt": "Wait",
        "States": {"Wait": {**state, "Catch": catchers, "End": True}, "Caught": {"Type": "Succeed"}},
    }


def test_tokens_are_answered(machines: Any, waiting: dict[str, Any]) -> None:
    """SendTaskSuccess gives the task its output; the token is not taken a second time."""
    # GIVEN
    execution = machines.start({**waiting, "Output": "{% $states.result %}"})
    token = machines.token(execution)

    # WHEN
    machines.api.send_task_success(taskToken=token, output=json.dumps({"gpus": 2}))
    ended = machines.finish(execution)

    # THEN
    assert json.loads(ended["output"]) == {"gpus": 2}
    for answer in (
        lambda: machines.api.send_task_heartbeat(taskToken=token),
        lambda: machines.api.send_task_success(taskToken=token, output="{}"),
        lambda: machines.api.send_task_failure(taskToken=token),
    ):
        with pytest.raises(machines.api.exceptions.TaskTimedOut):
            answer()
    with pytest.raises(machines.api.exceptions.InvalidToken):
        machines.api.send_task_heartbeat(taskToken="never given out")


def test_failures_keep_their_cause(machines: Any, waiting: dict[str, Any]) -> None:
    """SendTaskFailure's error and cause arrive unchanged, a traceback included."""
    # GIVEN
    execution = machines.start(caught(waiting, "TrainingFailed", "States.ALL"))
    token = machines.token(execution)

    # WHEN
    machines.api.send_task_failure(taskToken=token, error="TrainingFailed", cause=CAUSE)
    ended = machines.finish(execution)

    # THEN
    assert json.loads(ended["output"]) == {"by": "TrainingFailed", "error": "TrainingFailed", "cause": CAUSE}


def test_outputs_must_be_json(machines: Any, waiting: dict[str, Any]) -> None:
    """SendTaskSuccess refuses an output that is not JSON, and the task goes on waiting."""
    # GIVEN
    execution = machines.start(waiting)
    token = machines.token(execution)

    # WHEN
    with pytest.raises(machines.api.exceptions.InvalidOutput):
        machines.api.send_task_success(taskToken=token, output="no JSON")
    machines.api.send_task_success(taskToken=token, output="1")

    # THEN
    assert machines.finish(execution)["status"] == "SUCCEEDED"


def test_heartbeats_are_taken_without_a_heartbeat_timeout(machines: Any, waiting: dict[str, Any]) -> None:
    """A task without HeartbeatSeconds takes heartbeats too."""
    # GIVEN
    execution = machines.start(waiting)
    token = machines.token(execution)

    # WHEN
    machines.api.send_task_heartbeat(taskToken=token)
    machines.api.send_task_success(taskToken=token, output="1")

    # THEN
    assert machines.finish(execution)["status"] == "SUCCEEDED"


def test_heartbeats_keep_a_task_alive(machines: Any, waiting: dict[str, Any]) -> None:
    """A task lives on heartbeats, and ends with its answer."""
    # GIVEN
    execution = machines.start({**waiting, "HeartbeatSeconds": 30})
    token = machines.token(execution)

    # WHEN
    for _ in range(3):
        machines.api.send_task_heartbeat(taskToken=token)
    machines.api.send_task_success(taskToken=token, output="1")

    # THEN
    assert machines.finish(execution)["status"] == "SUCCEEDED"


def test_early_answers_are_heard(machines: Any, waiting: dict[str, Any]) -> None:
    """An answer counts that comes while the state machine still works out how long it waits for a heartbeat."""
    # GIVEN a heartbeat timeout whose expression takes longer than the answer
    slow = "{% $count($map([1..20000], function($number) { $number * $number })) > 0 ? 30 : 60 %}"
    execution = machines.start({**waiting, "HeartbeatSeconds": slow})
    token = machines.token(execution)

    # WHEN
    machines.api.send_task_success(taskToken=token, output="1")

    # THEN
    assert machines.finish(execution)["status"] == "SUCCEEDED"


@pytest.mark.parametrize("name", ["States.HeartbeatTimeout", "States.Timeout"])
def test_missed_heartbeats_match_both_names(machines: Any, waiting: dict[str, Any], name: str) -> None:
    """A missed heartbeat is caught by either name, and then the token is over."""
    # GIVEN
    execution = machines.start(caught({**waiting, "HeartbeatSeconds": 1}, name, "States.ALL"))
    token = machines.token(execution)

    # WHEN
    ended = machines.finish(execution)

    # THEN
    output = json.loads(ended["output"])
    assert (output["by"], output["error"]) == (name, "States.Timeout")
    with pytest.raises(machines.api.exceptions.TaskTimedOut):
        machines.api.send_task_heartbeat(taskToken=token)


def test_heartbeats_do_not_outlast_the_timeout(machines: Any, waiting: dict[str, Any]) -> None:
    """TimeoutSeconds, here from an expression, ends a task whose heartbeats go on; its token is over at once."""
    # GIVEN
    limited = {**waiting, "TimeoutSeconds": "{% $states.input.limit %}", "HeartbeatSeconds": 60}
    execution = machines.start(caught(limited, "States.HeartbeatTimeout", "States.ALL"), {"limit": 5})
    token = machines.token(execution)
    machines.api.send_task_heartbeat(taskToken=token)

    # WHEN
    ended = machines.finish(execution)

    # THEN
    output = json.loads(ended["output"])
    assert (output["by"], output["error"]) == ("States.ALL", "States.Timeout")
    with pytest.raises(machines.api.exceptions.TaskTimedOut):
        machines.api.send_task_heartbeat(taskToken=token)


def test_every_attempt_has_its_own_token(machines: Any, waiting: dict[str, Any]) -> None:
    """A retried task gives out a new token; the first one is over, the second is answered."""
    # GIVEN
    retry = [{"ErrorEquals": ["Again"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    execution = machines.start({**waiting, "Retry": retry, "Output": "{% $states.result %}"})
    first = machines.token(execution)

    # WHEN
    machines.api.send_task_failure(taskToken=first, error="Again")
    second = machines.token(execution, attempt=1)
    with pytest.raises(machines.api.exceptions.TaskTimedOut):
        machines.api.send_task_success(taskToken=first, output='"first"')
    machines.api.send_task_success(taskToken=second, output='"second"')

    # THEN
    assert first != second
    assert json.loads(machines.finish(execution)["output"]) == "second"


def test_stopping_lets_go_of_the_token(machines: Any, waiting: dict[str, Any]) -> None:
    """Once an execution is stopped, its task's token is over."""
    # GIVEN
    execution = machines.start({**waiting, "HeartbeatSeconds": 30})
    token = machines.token(execution)

    # WHEN
    machines.api.stop_execution(executionArn=execution)

    # THEN
    with pytest.raises(machines.api.exceptions.TaskTimedOut):
        machines.api.send_task_heartbeat(taskToken=token)
    assert machines.api.describe_execution(executionArn=execution)["status"] == "ABORTED"
