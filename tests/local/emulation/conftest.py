"""Fixtures of the contract tests: one cloud for all, and state machines, stacks and groups of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from horovod_local import LocalCloud
from horovod_node import contract
from support.local_cloud.container_instances import EcsFleets
from support.local_cloud.emulated_resources import SDK, Fleets, Machines, Stacks, make_role
from support.local_cloud.training_jobs import Jobs


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud whose nodes run the command that their user data names, and whose minutes of schedules are seconds."""
    home = tmp_path_factory.mktemp("emulation")
    node = home / "node"
    # Containers of ECS find the user data's variables in a file.
    in_file = f"sed -n 's/^TEST_COMMAND=//p' {contract.NODE_ENV_FILE}"
    node.write_text(f'#!/bin/bash\neval "${{TEST_COMMAND:-$({in_file})}}"\n', encoding="utf-8")
    node.chmod(0o755)
    with LocalCloud(home=home, node_python=str(node), schedule_speed=60) as cloud:
        make_role(cloud)
        yield cloud


@pytest.fixture(scope="session")
def machines(cloud: LocalCloud) -> Machines:
    """State machines, and the table `tokens` for those that wait."""
    cloud.client("dynamodb").create_table(
        TableName="tokens",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return Machines(cloud)


@pytest.fixture
def token_task() -> dict[str, Any]:
    """A state that leaves its token in the table of `machines`, and waits for the answer."""
    return {
        "Type": "Task",
        "Resource": f"{SDK}dynamodb:putItem.waitForTaskToken",
        "Arguments": {
            "TableName": "tokens",
            "Item": {
                "pk": {"S": "{% $states.context.Execution.Name %}"},
                "token": {"S": "{% $states.context.Task.Token %}"},
                "try": {"N": "{% $string($states.context.State.RetryCount) %}"},
            },
        },
    }


@pytest.fixture(scope="session")
def machines_of_us_east_1(cloud: LocalCloud) -> Machines:
    """State machines in a Region where AWS has services that it has nowhere else."""
    return Machines(cloud, region="us-east-1")


@pytest.fixture
def stacks(cloud: LocalCloud) -> Iterator[Stacks]:
    """Stacks that are gone after the test."""
    stacks = Stacks(cloud)
    yield stacks
    for name in reversed(stacks.made):
        stacks.api.delete_stack(StackName=name)


@pytest.fixture
def fleets(cloud: LocalCloud) -> Iterator[Fleets]:
    """Fleets that are gone after the test."""
    fleets = Fleets(cloud)
    yield fleets
    for fleet in fleets.made:
        fleet.api.delete_auto_scaling_group(AutoScalingGroupName=fleet.name, ForceDelete=True)


@pytest.fixture
def ecs_fleets(cloud: LocalCloud, stacks: Stacks) -> Iterator[EcsFleets]:
    """Clusters with daemon services and a fleet, which are gone after the test."""
    fleets = EcsFleets(cloud, stacks)
    yield fleets
    for fleet in fleets.made:
        fleet.empty()


@pytest.fixture
def jobs(cloud: LocalCloud) -> Iterator[Jobs]:
    """Training jobs, of which nothing runs after the test."""
    jobs = Jobs(cloud)
    yield jobs
    for job in jobs.made:
        if job.describe()["TrainingJobStatus"] == "InProgress":
            job.stop()
    for job in jobs.made:
        job.ended()
