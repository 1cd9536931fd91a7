"""Executions, against AWS's documented behaviour."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import pytest

from support.waiting import eventually

WAIT = {"Type": "Wait", "Seconds": 600}


def test_executions_are_named(machines: Any) -> None:
    """An execution that is started without a name gets a UUID."""
    # WHEN
    started = machines.api.start_execution(stateMachineArn=machines.create({"Type": "Pass"}))

    # THEN
    assert uuid.UUID(started["executionArn"].rpartition(":")[2]).version == 4


def test_context_holds_json(machines: Any) -> None:
    """The context object is JSON, with times as text and a RedriveCount."""
    # GIVEN
    machine = {"Type": "Pass", "Output": "{% $states.context.Execution %}"}

    # WHEN
    execution = machines.output(machine, {"a": 1})

    # THEN
    assert (execution["Input"], execution["RedriveCount"]) == ({"a": 1}, 0)
    assert execution["StartTime"].endswith("Z")


def test_states_are_entered_in_utc(machines: Any) -> None:
    """The times of the context object can be compared as texts."""
    # GIVEN
    machine = {
        "Type": "Pass",
        "Output": "{% [$states.context.Execution.StartTime, $states.context.State.EnteredTime] %}",
    }

    # WHEN
    times = machines.output(machine)

    # THEN
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}(-\d\d){2}T\d\d(:\d\d){2}\.\d{3}Z", time) for time in times), times


def test_stopping_aborts_at_once(machines: Any) -> None:
    """A stopped execution is ABORTED when StopExecution answers, and no Catch of it runs."""
    # GIVEN
    waiting = {"ErrorEquals": ["States.ALL"], "Next": "Caught"}
    retry = {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 600}
    call = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:s3:listObjectsV2",
        "Arguments": {"Bucket": "there-is-none"},
        "Retry": [retry],
        "Catch": [waiting],
        "End": True,
    }
    machine = {"StartAt": "Call", "States": {"Call": call, "Caught": {"Type": "Succeed"}}}
    execution = machines.start(machine)
    history = {"executionArn": execution}
    eventually(lambda: len(machines.api.get_execution_history(**history)["events"]), lambda count: count >= 5)

    # WHEN
    machines.api.stop_execution(executionArn=execution, error="Stopped", cause="by a person")
    described = machines.api.describe_execution(executionArn=execution)

    # THEN
    assert (described["status"], described["error"], described["cause"]) == ("ABORTED", "Stopped", "by a person")
    assert "stopDate" in described


def test_stopping_works_from_the_first_moment(machines: Any) -> None:
    """An execution that is stopped as soon as it is started is ABORTED."""
    # GIVEN
    machine = machines.create(WAIT)

    # WHEN
    executions = [machines.api.start_execution(stateMachineArn=machine)["executionArn"] for _ in range(5)]
    for execution in executions:
        machines.api.stop_execution(executionArn=execution)

    # THEN
    assert {machines.finish(execution)["status"] for execution in executions} == {"ABORTED"}


def test_stopping_an_ended_execution_changes_nothing(machines: Any) -> None:
    """An execution that has ended keeps its status when it is stopped."""
    # GIVEN
    execution = machines.start({"Type": "Pass"})
    machines.finish(execution)

    # WHEN
    machines.api.stop_execution(executionArn=execution)

    # THEN
    assert machines.api.describe_execution(executionArn=execution)["status"] == "SUCCEEDED"


def test_timing_out_cancels_tasks(machines: Any, token_task: dict[str, Any]) -> None:
    """An execution that reaches its TimeoutSeconds is TIMED_OUT, and its task's token is no longer taken."""
    # GIVEN
    waiting = {**token_task, "End": True}
    execution = machines.start({"TimeoutSeconds": 4, "StartAt": "Wait", "States": {"Wait": waiting}})
    token = machines.token(execution)

    # WHEN
    ended = machines.finish(execution)

    # THEN
    assert ended["status"] == "TIMED_OUT"
    with pytest.raises(machines.api.exceptions.TaskTimedOut):
        machines.api.send_task_success(taskToken=token, output="{}")


NESTED = {
    "Type": "Task",
    "Resource": "arn:aws:states:::states:startExecution.sync:2",
    "Arguments": {"StateMachineArn": "{% $states.input.machine %}", "Name": "{% $states.input.name %}"},
    "End": True,
}


@pytest.mark.parametrize("aborted_by", ["stop", "branch"])
def test_aborted_tasks_stop_their_executions(machines: Any, aborted_by: str) -> None:
    """A nested execution is ABORTED when its parent is stopped, and when another branch beside its task fails."""
    # GIVEN a parent that waits for a nested execution, alone or beside a branch that fails
    child = machines.create(WAIT)
    failing = {"Wait": {"Type": "Wait", "Seconds": 3, "Next": "Fail"}, "Fail": {"Type": "Fail", "Error": "Other"}}
    branches = [{"StartAt": "Run", "States": {"Run": NESTED}}, {"StartAt": "Wait", "States": failing}]
    waiting = NESTED if aborted_by == "stop" else {"Type": "Parallel", "Branches": branches}
    parent = machines.start(waiting, {"machine": child, "name": "nested"})

    def status() -> str:
        listed = machines.api.list_executions(stateMachineArn=child)["executions"]
        return str(listed[0]["status"]) if listed else "none"

    assert eventually(status, lambda seen: seen == "RUNNING") == "RUNNING"

    # WHEN
    if aborted_by == "stop":
        machines.api.stop_execution(executionArn=parent)

    # THEN
    assert machines.finish(parent)["status"] == {"stop": "ABORTED", "branch": "FAILED"}[aborted_by]
    assert eventually(status, lambda seen: seen != "RUNNING") == "ABORTED"


def test_executions_are_described_as_json(machines: Any) -> None:
    """An output is described as JSON whatever it is, and what has ended has a stopDate."""
    # WHEN
    ended = machines.run({"Type": "Pass", "Output": "a text"})

    # THEN
    assert json.loads(ended["output"]) == "a text"
    assert ended["stopDate"] >= ended["startDate"]


def test_refusals_are_named(machines: Any) -> None:
    """A definition that is none is refused as InvalidDefinition."""
    # WHEN
    with pytest.raises(machines.api.exceptions.InvalidDefinition) as refused:
        machines.create({"StartAt": "Missing", "States": {}})

    # THEN
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_executions_of_one_name_are_started_once(machines: Any) -> None:
    """Starting an execution again with the same name and input returns the first."""
    # GIVEN
    machine = machines.create(WAIT)
    name = f"run-{uuid.uuid4()}"

    # WHEN
    first, second = (
        machines.api.start_execution(stateMachineArn=machine, name=name, input="{}")["executionArn"] for _ in range(2)
    )

    # THEN
    assert first == second
    assert len(machines.api.list_executions(stateMachineArn=machine)["executions"]) == 1
    machines.api.stop_execution(executionArn=first)
