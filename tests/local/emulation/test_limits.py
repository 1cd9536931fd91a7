"""Quotas of state machines, against "Step Functions service quotas" of the Developer Guide."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

HALF = 150 * 1024


@pytest.mark.slow
def test_histories_have_a_limit(machines: Any) -> None:
    """An execution whose history has 25,000 events fails, although every state of it would go on."""
    # GIVEN a loop
    loop = {"Type": "Pass", "Next": "Loop"}

    # WHEN
    ended = machines.run({"StartAt": "Loop", "States": {"Loop": loop}})

    # THEN
    assert (ended["status"], ended["error"]) == ("FAILED", "States.Runtime")
    assert "maximum number of history events (25000)" in ended["cause"]


def test_payloads_have_limits(machines: Any) -> None:
    """An input, all variables that a state assigns, and a task's arguments are each refused beyond 256 KiB."""
    # GIVEN
    assign = {"Type": "Pass", "Assign": dict.fromkeys(("a", "b"), "{% $states.input.text %}")}
    arguments = {"TableName": "tokens", "Item": {"pk": {"S": "{% $states.input.text & $states.input.text %}"}}}
    task = {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:dynamodb:putItem", "Arguments": arguments}
    given = {"text": "x" * HALF}

    # WHEN
    assigned, asked = machines.run(assign, given), machines.run(task, given)
    with pytest.raises(ClientError, match="less than or equal to 262144") as refused:
        machines.api.start_execution(
            stateMachineArn=machines.create({"Type": "Pass"}), input=json.dumps({"text": "x" * 2 * HALF})
        )

    # THEN
    assert (assigned["status"], assigned["error"]) == ("FAILED", "States.DataLimitExceeded")
    assert (asked["status"], asked["error"]) == ("FAILED", "States.DataLimitExceeded")
    assert refused.value.response["Error"]["Code"] == "ValidationException"
