"""Faults put into the local cloud."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from horovod_local import ApiFault, Faults, LocalCloudError, Refusal
from horovod_local.instances.processes import processes_with
from horovod_node import contract
from support.waiting import eventually


def test_refused_capacity_is_told_in_words_of_ec2(faults: Any, fleets: Any) -> None:
    """A launch without capacity is a failed activity with EC2's words; the group fills once there is capacity."""
    # GIVEN
    fleet = fleets.create(base=1, types=(("g5.xlarge", 1),))
    faults.set_faults(Faults(refused=(Refusal(market="on-demand"), Refusal(market="spot", zone="eu-west-1a"))))

    # WHEN
    fleet.scale(2)
    refused = fleet.kinds()
    messages = {activity["StatusMessage"] for activity in fleet.activities() if activity["StatusCode"] == "Failed"}
    faults.set_faults(Faults())

    # THEN
    assert refused == []
    assert any(
        message.startswith(
            "We currently do not have sufficient g5.xlarge capacity in the Availability Zone you requested"
        )
        for message in messages
    )
    assert len(eventually(fleet.members, lambda members: len(members) == 2)) == 2


def test_refused_spot_is_told_so(faults: Any, fleets: Any) -> None:
    """Spot capacity that is refused everywhere is told in other words than On-Demand's."""
    # GIVEN
    fleet = fleets.create(types=(("g5.xlarge", 1),))
    faults.set_faults(Faults(refused=(Refusal(market="spot"),)))

    # WHEN
    fleet.scale(1)

    # THEN
    assert fleet.activities()[0]["StatusMessage"].startswith("There is no Spot capacity available")
    assert fleet.members() == []


@pytest.mark.parametrize(
    ("why", "market", "words"),
    [
        ("quota", "spot", "Max spot instance count exceeded. "),
        ("quota", "on-demand", "You have requested more vCPU capacity than your current vCPU limit of 0 allows for "),
        ("throttling", "spot", "Request limit exceeded. "),
        ("throttling", "on-demand", "Request limit exceeded. "),
    ],
)
def test_refusals_say_why(faults: Any, fleets: Any, why: str, market: str, words: str) -> None:
    """A quota that is used up and an API that is throttled are told in EC2's words for them, and launch nothing."""
    # GIVEN
    fleet = fleets.create(types=(("g5.xlarge", 1),), base=1 if market == "on-demand" else 0)
    faults.set_faults(Faults(refused=(Refusal(market=market, why=why),)))

    # WHEN
    fleet.scale(1)

    # THEN
    assert fleet.activities()[0]["StatusMessage"].startswith(words)
    assert fleet.members() == []


def test_refusal_without_a_reason_is_refused() -> None:
    """A reason that EC2 does not have is named, with those that it has."""
    with pytest.raises(LocalCloudError, match="'why' must be one of capacity, quota, throttling, got weather"):
        Refusal(why="weather")


def test_another_type_stands_in(faults: Any, fleets: Any) -> None:
    """When a type is refused in every zone, the group launches the next."""
    # GIVEN
    fleet = fleets.create(base=4)
    faults.set_faults(Faults(refused=(Refusal(instance_type="g5.12xlarge"),)))

    # WHEN
    fleet.scale(4)

    # THEN
    assert fleet.kinds() == [("g5.xlarge", "on-demand")] * 4


def test_launches_take_their_time(faults: Any, fleets: Any) -> None:
    """An instance is pending for the delay given, in EC2 and in its group, and then in service."""
    # GIVEN
    fleet = fleets.create(types=(("g5.xlarge", 1),))
    faults.set_faults(Faults(launch_delay_seconds=600))

    # WHEN
    fleet.scale(1)

    # THEN
    def states() -> tuple[str, str]:
        return fleet.members()[0]["LifecycleState"], fleet.instances()[0]["State"]["Name"]

    assert states() == ("Pending", "pending")

    # WHEN the delay is over
    faults.set_faults(Faults(launch_delay_seconds=0.1))

    # THEN
    there = ("InService", "running")
    assert eventually(states, lambda seen: seen == there) == there


def test_terminations_take_their_time(faults: Any, cloud: Any, fleets: Any) -> None:
    """An instance that its group terminates runs on for the delay, counts for nothing, and ends with the fault."""
    # GIVEN
    script = f"cat > '{contract.NODE_ENV_FILE}' <<'END'\nTEST_COMMAND=sleep 600\nEND\n"
    fleet = fleets.create(user_data=base64.b64encode(script.encode()).decode(), types=(("g5.xlarge", 1),))
    fleet.scale(1)
    first = eventually(lambda: [item for item in cloud.instances() if item.group == fleet.name and item.pid])[0]
    faults.set_faults(Faults(termination_delay_seconds=500))

    # WHEN
    fleet.scale(0)
    fleet.scale(1)

    # THEN the group has the old one beside the new one
    states = {member["InstanceId"]: member["LifecycleState"] for member in fleet.members()}
    assert sorted(states.values()) == ["InService", "Terminating"]
    assert states[first.instance_id] == "Terminating"
    answer = fleet.ec2.describe_instances(InstanceIds=[first.instance_id])
    assert answer["Reservations"][0]["Instances"][0]["State"] == {"Code": 32, "Name": "shutting-down"}
    assert "InProgress" in [activity["StatusCode"] for activity in fleet.activities()]
    eventually(lambda: [item for item in cloud.instances() if item.group == fleet.name], lambda items: len(items) == 2)
    assert list(processes_with(contract.ENV_NODE_ID, first.instance_id)) != []

    # WHEN
    faults.set_faults(Faults())

    # THEN
    ids = eventually(lambda: [member["InstanceId"] for member in fleet.members()], lambda ids: len(ids) == 1)
    assert first.instance_id not in ids
    assert (
        eventually(lambda: list(processes_with(contract.ENV_NODE_ID, first.instance_id)), lambda left: not left) == []
    )
    assert {activity["StatusCode"] for activity in fleet.activities()} == {"Successful"}


def test_terminating_instances_are_not_counted_twice(faults: Any, fleets: Any) -> None:
    """Terminating an instance that is being terminated already takes its weight from the group once."""
    # GIVEN
    fleet = fleets.create(types=(("g5.xlarge", 1),))
    fleet.scale(2)
    faults.set_faults(Faults(termination_delay_seconds=500))
    instance = fleet.members()[0]["InstanceId"]

    # WHEN
    statuses = [
        fleet.api.terminate_instance_in_auto_scaling_group(InstanceId=instance, ShouldDecrementDesiredCapacity=True)[
            "Activity"
        ]["StatusCode"]
        for _ in range(2)
    ]

    # THEN
    assert statuses == ["InProgress", "InProgress"]
    assert fleet.describe()["DesiredCapacity"] == 1
    assert sorted(member["LifecycleState"] for member in fleet.members()) == ["InService", "Terminating"]


@pytest.mark.parametrize(
    ("what", "running"),
    [(Faults(agents_start=False), (False, True)), (Faults(switches_start=False), (True, False))],
)
def test_agents_and_switches_may_not_start(
    faults: Any, cloud: Any, fleets: Any, what: Faults, running: tuple[bool, bool]
) -> None:
    """An instance comes up without its agent, or without its switch."""
    # GIVEN
    script = f"cat > '{contract.NODE_ENV_FILE}' <<'END'\nTEST_COMMAND=sleep 600\nEND\n"
    script += f"cat > '{contract.SWITCH_FILE}' <<'END'\nsleep 600\nEND\n"
    fleet = fleets.create(user_data=base64.b64encode(script.encode()).decode())
    faults.set_faults(what)

    # WHEN
    fleet.scale(1)
    found = eventually(lambda: [item for item in cloud.instances() if item.group == fleet.name])

    # THEN
    assert [(item.pid is not None, item.switch_pid is not None) for item in found] == [running]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Faults(launch_delay_seconds=-1), "'launch_delay_seconds' must be at least 0, got -1"),
        (lambda: Faults(termination_delay_seconds=-1), "'termination_delay_seconds' must be at least 0, got -1"),
        (lambda: Refusal(market="auction"), "'market' must be one of on-demand, spot, got auction"),
        (lambda: Faults.from_json({"earthquake": 1}), "'earthquake' is not a fault"),
        (lambda: Faults.from_json({"failing": [{"service": "s3", "colour": 1}]}), "'failing' has no field colour"),
        (lambda: Faults.from_json({"refused": [{"colour": "red"}]}), "'refused' has no field colour"),
    ],
)
def test_wrong_faults_are_refused(make: Any, reason: str) -> None:
    """A fault that cannot be is refused, naming argument and value."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=reason):
        make()


def test_faults_are_carried_over() -> None:
    """What is put in force arrives as it was meant."""
    # GIVEN
    meant = Faults(
        launch_delay_seconds=1.5,
        refused=(Refusal(zone="eu-west-1a"),),
        termination_delay_seconds=2,
        agents_start=False,
        failing=(ApiFault(service="s3", operation="Put*", times=3, seconds=4.5, delay_seconds=0.5),),
    )

    # WHEN, THEN
    assert Faults.from_json(json.loads(json.dumps(meant.to_json()))) == meant


def test_losing_an_unknown_instance_is_refused(cloud: Any) -> None:
    """An instance that is not in service cannot be lost."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match="no instance i-0"):
        cloud.lose("i-0")
