"""Instances acted by processes: here by shell commands that a test puts into the user data, elsewhere by the agent."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from horovod_local.instances.user_data import variables_in, written_files
from horovod_node import contract
from support.local_cloud.emulated_resources import processes, started, user_data
from support.waiting import eventually


def test_agents_know_their_instance(cloud: Any, fleets: Any) -> None:
    """The agent's environment has the lines of the user data, the facts of its instance, and the cloud alone."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("env > partial && mv partial environment; sleep 600"), base=4)

    # WHEN
    fleet.scale(4)
    instance = started(cloud, fleet)[0]

    # THEN
    folder = Path(instance.log).parent
    lines = eventually(lambda: (folder / "environment").exists() and (folder / "environment").read_text().splitlines())
    environment = dict(line.split("=", 1) for line in lines)
    assert {name: environment[name] for name in environment if name.startswith("CDK_HOROVOD_NODE")} == {
        contract.ENV_NODE_ID: instance.instance_id,
        contract.ENV_NODE_ADDRESS: instance.address,
        contract.ENV_NODE_INTERFACE: "lo",
        contract.ENV_NODE_GPUS: "4",
        contract.ENV_NODE_TYPE: "g5.12xlarge",
        contract.ENV_NODE_ZONE: instance.zone,
        contract.ENV_NODE_MARKET: "on-demand",
    }
    assert environment[contract.ENV_ENGINE] == contract.ENGINE_LOCAL
    assert environment[contract.ENV_FLEET] == "the fleet"
    assert environment["AWS_ENDPOINT_URL"] == cloud.endpoint
    assert environment["AWS_ACCESS_KEY_ID"].startswith(f"node-{instance.instance_id}.")
    assert environment["AWS_SHARED_CREDENTIALS_FILE"] == os.devnull


def test_every_instance_has_its_own_address(cloud: Any, fleets: Any) -> None:
    """Instances have different addresses of this machine, and what they print goes to different logs."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("echo hello from $CDK_HOROVOD_NODE_ID; sleep 600"))

    # WHEN
    fleet.scale(2)
    instances = started(cloud, fleet, 2)

    # THEN
    assert len({instance.address for instance in instances}) == 2
    assert all(instance.address.startswith("127.") for instance in instances)
    for instance in instances:
        assert eventually(Path(instance.log).read_text) == f"hello from {instance.instance_id}\n"


def test_terminated_instances_leave_no_process(cloud: Any, fleets: Any) -> None:
    """When the group terminates an instance, all of its processes end, also those that do not want to."""
    # GIVEN
    stubborn = "trap '' TERM; setsid sleep 600 & while true; do sleep 1; done"
    fleet = fleets.create(user_data=user_data(stubborn))
    fleet.scale(1)
    instance = started(cloud, fleet)[0]
    eventually(lambda: processes(instance), lambda pids: len(pids) >= 3)

    # WHEN
    fleet.scale(0)

    # THEN
    assert eventually(lambda: processes(instance), lambda pids: not pids) == []
    assert instance.instance_id not in [item.instance_id for item in cloud.instances()]


def test_agents_may_end_in_peace(cloud: Any, fleets: Any) -> None:
    """A terminated instance's agent is asked to end before it is made to."""
    # GIVEN
    # A shell that waits hears the signal at once; one that runs a program hears it when that has ended.
    fleet = fleets.create(user_data=user_data("trap 'echo bye; exit' TERM; echo ready; sleep 600 & wait"))
    fleet.scale(1)
    log = Path(started(cloud, fleet)[0].log)
    eventually(log.read_text)

    # WHEN
    fleet.scale(0)

    # THEN
    assert eventually(log.read_text, lambda text: "bye" in text) == "ready\nbye\n"


def test_an_instance_outlives_its_agent(cloud: Any, fleets: Any) -> None:
    """An agent that dies takes its container along; the instance stays in service until something terminates it."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("setsid sleep 600 & sleep 600", switch="sleep 600"))
    fleet.scale(1)
    instance = started(cloud, fleet)[0]
    eventually(lambda: processes(instance), lambda pids: len(pids) == 5)

    # WHEN
    os.kill(instance.pid, signal.SIGKILL)

    # THEN only the switch and its sleep are left
    left = eventually(lambda: processes(instance), lambda pids: len(pids) == 2)
    assert instance.switch_pid in left
    found = eventually(
        lambda: [item for item in cloud.instances() if item.group == fleet.name], lambda items: items[0].pid is None
    )
    assert [(item.instance_id, item.pid, item.switch_pid) for item in found] == [
        (instance.instance_id, None, instance.switch_pid)
    ]
    assert [(item["InstanceId"], item["LifecycleState"]) for item in fleet.members()] == [
        (instance.instance_id, "InService")
    ]

    # WHEN
    fleet.scale(0)

    # THEN
    assert eventually(lambda: processes(instance), lambda pids: not pids) == []


def test_a_lost_instance_dies_at_once(cloud: Any, fleets: Any) -> None:
    """An instance that is lost has no time for anything, and its group replaces it."""
    # GIVEN
    fleet = fleets.create(user_data=user_data("trap 'echo bye' TERM; echo ready; while true; do sleep 0.1; done"))
    fleet.scale(1)
    first = started(cloud, fleet)[0]
    eventually(Path(first.log).read_text)

    # WHEN
    cloud.lose(first.instance_id)

    # THEN
    assert (processes(first), Path(first.log).read_text()) == ([], "ready\n")
    second = eventually(lambda: started(cloud, fleet)[0], lambda item: item.instance_id != first.instance_id)
    assert second.instance_id != first.instance_id


def test_other_instances_run_nothing(cloud: Any, fleets: Any) -> None:
    """An instance whose user data starts no node is in service, and runs nothing."""
    # GIVEN
    fleet = fleets.create(user_data=base64.b64encode(b"#!/bin/bash\necho hello").decode())

    # WHEN
    fleet.scale(1)
    found = eventually(lambda: [item for item in cloud.instances() if item.group == fleet.name])

    # THEN
    assert [item.pid for item in found] == [None]
    assert fleet.members()[0]["LifecycleState"] == "InService"


@pytest.mark.parametrize(
    ("script", "environment"),
    [
        (f"cat > {contract.NODE_ENV_FILE} <<END\nA=1\n# no\n\nB=x = y\nEND\nC=3\n", {"A": "1", "B": "x = y"}),
        (f"cat <<'END' > '{contract.NODE_ENV_FILE}'\nA=1\nEND\n", {"A": "1"}),
        (f'cat > "{contract.NODE_ENV_FILE}" <<-"END"\n\tA=1\n\tEND\n', {"A": "1"}),
        ("cat > /etc/other <<END\nA=1\nEND\n", None),
        (f"rm {contract.NODE_ENV_FILE}\n", None),
    ],
)
def test_node_environment(script: str, environment: dict[str, str] | None) -> None:
    """The node's environment is what the script would write to its file."""
    # WHEN, THEN
    assert variables_in(written_files(script), contract.NODE_ENV_FILE) == environment


def test_written_files() -> None:
    """The files of a script are the texts of its heredocs, each to its end and no further."""
    # GIVEN
    script = """#!/bin/bash
cat > '/a' <<'ONE'
first <<< "here"
cat > /not/a/file <<TWO
ONE
bash <<INLINE
cat > /c <<'NO'
INLINE
read -r word <<< "text"
cat > /b <<'TWO'
TWO
cat >> /d <<'THREE'
more
THREE
"""

    # WHEN
    files = written_files(script)

    # THEN
    assert files == {"/a": 'first <<< "here"\ncat > /not/a/file <<TWO\n', "/b": ""}


def test_switches_end_their_instance(cloud: Any, fleets: Any) -> None:
    """A switch asks Auto Scaling with the real AWS CLI to terminate its instance, which leaves nothing behind."""
    # GIVEN
    ask = "aws autoscaling terminate-instance-in-auto-scaling-group --should-decrement-desired-capacity"
    switch = f"[ -e go ] && {ask} --instance-id $CDK_HOROVOD_NODE_ID --query Activity.StatusCode; sleep 0.2"
    fleet = fleets.create(user_data=user_data("sleep 600", switch=f"while true; do {switch}; done"))
    fleet.scale(1)
    instance = started(cloud, fleet)[0]

    # WHEN
    folder = Path(instance.log).parent
    (folder / "go").touch()

    # THEN
    assert eventually(fleet.members, lambda members: not members) == []
    assert fleet.describe()["DesiredCapacity"] == 0
    assert eventually(lambda: processes(instance), lambda pids: not pids) == []
    assert fleet.activities()[0]["StatusCode"] == "Successful"


def test_instances_shut_themselves_down(cloud: Any, fleets: Any) -> None:
    """`shutdown` in a switch ends the instance, for EC2 too, and its group replaces it."""
    # GIVEN
    switch = "until [ -e go ]; do sleep 0.1; done; timeout 60 shutdown -h now; sleep 600"
    fleet = fleets.create(user_data=user_data("sleep 600", switch=switch))
    fleet.scale(1)
    first = started(cloud, fleet)[0]

    # WHEN
    (Path(first.log).parent / "go").touch()

    # THEN
    second = eventually(lambda: started(cloud, fleet)[0], lambda item: item.instance_id != first.instance_id)
    assert second.instance_id != first.instance_id
    answer = fleet.ec2.describe_instances(InstanceIds=[first.instance_id])
    assert answer["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"
    assert eventually(lambda: processes(first), lambda pids: not pids) == []


def test_switches_are_started_again(cloud: Any, fleets: Any) -> None:
    """A switch that ends is started again, as systemd does it, with the node's environment and a log of its own."""
    # GIVEN
    switch = 'echo "$CDK_HOROVOD_FLEET $AWS_REGION $CDK_HOROVOD_NODE_ID"'
    fleet = fleets.create(user_data=user_data("sleep 600", switch=switch))

    # WHEN
    fleet.scale(1)
    instance = started(cloud, fleet)[0]

    # THEN
    log = Path(instance.log).with_name("switch.log")
    lines = eventually(lambda: log.read_text().splitlines(), lambda lines: len(lines) >= 2)
    assert set(lines) == {f"the fleet eu-west-1 {instance.instance_id}"}
