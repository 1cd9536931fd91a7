"""`cdk-horovod doctor --deep` against the deployed app: every state, and what a fault in one looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from deployment import Deployment

from horovod_client.check import FAIL, OK, Check
from horovod_client.deep.examine import examine_states

pytestmark = pytest.mark.local


def examine(app: Deployment) -> list[Check]:
    cloud = app.cloud
    return [
        *examine_states(
            app.training.connection,
            stack="Training",
            cloudformation=cloud.client("cloudformation"),
            stepfunctions=cloud.client("stepfunctions"),
        )
    ]


def names_in(level: dict[str, Any]) -> Iterator[str]:
    for name, state in level["States"].items():
        yield name
        yield from names_in(state["ItemProcessor"]) if "ItemProcessor" in state else ()


def test_every_state_of_the_deployed_machines_passes(app: Deployment) -> None:
    """No state is left out, and none fails."""
    # WHEN
    checks = examine(app)
    # THEN
    assert [check for check in checks if check.state != OK] == []
    api = app.cloud.client("stepfunctions")
    machines = api.list_state_machines()["stateMachines"]
    definitions = [
        api.describe_state_machine(stateMachineArn=each["stateMachineArn"])["definition"] for each in machines
    ]
    states = sorted(name for definition in definitions for name in names_in(json.loads(definition)))
    summaries = [check for check in checks if re.match(r"all \d+ states do what they should", check.says)]
    assert sorted(check.name for check in checks if check not in summaries) == states
    assert len(summaries) == len(machines)


def test_a_fault_in_the_deployed_machine_is_told(app: Deployment) -> None:
    """A member's name that AWS does not have, as it was in *Start nodes* once, is named with its state."""
    # GIVEN
    api, arn = app.cloud.client("stepfunctions"), app.training.connection.state_machine
    deployed = api.describe_state_machine(stateMachineArn=arn)["definition"]
    wrong = deployed.replace("$states.result.Contents", "$states.result.Contens")
    wrong = wrong.replace("$states.result.ContentLength", "$states.result.ContentLenght")
    assert wrong != deployed
    api.update_state_machine(stateMachineArn=arn, definition=wrong)
    # WHEN
    try:
        failures = {check.name: check.says for check in examine(app) if check.state == FAIL}
    finally:
        api.update_state_machine(stateMachineArn=arn, definition=deployed)
    # THEN
    assert "given a result: States.QueryEvaluationError" in failures["Check the model"]
    assert any("would fail" in says for says in failures.values())
