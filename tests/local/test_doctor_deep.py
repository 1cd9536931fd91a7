"""`cdk-horovod doctor --deep` against the deployed app: every state, and what a fault in one looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from horovod_client.doctor.check import FAIL, OK, Check
from horovod_client.doctor.deep.examine import examine_states
from horovod_local import LocalCloud
from support.local_cloud.deployment import SETTINGS, Deployment
from support.synthesis import synthesise

pytestmark = [pytest.mark.slow, pytest.mark.local]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The app in a cloud of its own, in which there are no other state machines."""
    folder = tmp_path_factory.mktemp("deep")
    synthesise(folder / "cdk.out", settings=SETTINGS)
    with LocalCloud(home=folder / "cloud") as cloud:
        cloud.deploy(folder / "cdk.out", tell=lambda _line: None)
        yield Deployment(cloud=cloud)


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
    summaries = [check for check in checks if re.match(r"all \d+ states passed", check.says)]
    assert sorted(check.name for check in checks if check not in summaries) == states
    assert len(summaries) == len(machines)


def test_a_fault_in_the_deployed_machine_is_told(app: Deployment) -> None:
    """A member's name that AWS does not have, as it was in *Start nodes* once, is named with its state."""
    # GIVEN
    api, arn = app.cloud.client("stepfunctions"), app.training.connection.state_machine
    deployed = api.describe_state_machine(stateMachineArn=arn)["definition"]
    wrong = deployed.replace("$states.result.ContentLength", "$states.result.ContentLenght")
    assert wrong != deployed
    api.update_state_machine(stateMachineArn=arn, definition=wrong)
    # WHEN
    try:
        failures = [check for check in examine(app) if check.state == FAIL]
    finally:
        api.update_state_machine(stateMachineArn=arn, definition=deployed)
    # THEN
    state, summary = failures
    assert "$states.result.ContentLenght, but HeadObject returns no 'ContentLenght'" in state.says
    assert summary.says.startswith("1 of ")
