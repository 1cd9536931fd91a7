"""Express state machines, against AWS's documented behaviour."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.waiting import eventually

ROLE = "arn:aws:iam::123456789012:role/any"
NOTE = {
    "QueryLanguage": "JSONata",
    "StartAt": "Note",
    "States": {
        "Note": {
            "Type": "Task",
            "Resource": "arn:aws:states:::aws-sdk:dynamodb:putItem",
            "Arguments": {
                "TableName": "tokens",
                "Item": {
                    "pk": {"S": "{% $states.input.key %}"},
                    "id": {"S": "{% $states.context.Execution.Id %}"},
                },
            },
            "End": True,
        }
    },
}


def test_express_executions_cannot_be_described(cloud: Any, stacks: Any, machines: Any) -> None:
    """A template's Express machine runs under ARNs of its own, which nothing describes, stops or lists."""
    # GIVEN
    properties = {"RoleArn": ROLE, "StateMachineType": "EXPRESS", "DefinitionString": json.dumps(NOTE)}
    machine = {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}
    stack = stacks.create({"Resources": {"Machine": machine}, "Outputs": {"Arn": {"Value": {"Ref": "Machine"}}}})
    arn, key = stack["outputs"]["Arn"], f"key-{uuid.uuid4()}"

    # WHEN
    execution = machines.api.start_execution(stateMachineArn=arn, name="a", input=json.dumps({"key": key}))[
        "executionArn"
    ]

    # THEN
    read = {"TableName": "tokens", "Key": {"pk": {"S": key}}}
    item = eventually(lambda: cloud.client("dynamodb").get_item(**read).get("Item"))
    assert item["id"]["S"] == execution
    assert execution.startswith(f"{arn.replace(':stateMachine:', ':express:')}:a:")
    assert machines.api.describe_state_machine(stateMachineArn=arn)["type"] == "EXPRESS"
    for operation in ("describe_execution", "stop_execution", "get_execution_history"):
        with pytest.raises(machines.api.exceptions.InvalidArn, match="not valid in this context: express"):
            getattr(machines.api, operation)(executionArn=execution)
    with pytest.raises(ClientError, match="StateMachineTypeNotSupported"):
        machines.api.list_executions(stateMachineArn=arn)
    # AND a name may be used again
    machines.api.start_execution(stateMachineArn=arn, name="a", input=json.dumps({"key": key, "again": 1}))
