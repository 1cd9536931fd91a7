"""Faults put into the local cloud."""

from __future__ import annotations

from typing import Any

import pytest

from horovod_local import Faults, LocalCloudError, Refusal
from patience import eventually


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
    faults.set_faults(Faults(launch_delay_seconds=2))

    # WHEN
    fleet.scale(1)

    # THEN
    pending = (fleet.members()[0]["LifecycleState"], fleet.instances()[0]["State"]["Name"])
    assert pending == ("Pending", "pending")
    eventually(fleet.members, lambda members: members[0]["LifecycleState"] == "InService")
    assert (fleet.members()[0]["LifecycleState"], fleet.instances()[0]["State"]["Name"]) == ("InService", "running")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Faults(launch_delay_seconds=-1), "'launch_delay_seconds' must be at least 0, got -1"),
        (lambda: Refusal(market="auction"), "'market' must be one of on-demand, spot, got auction"),
        (lambda: Faults.from_json({"earthquake": 1}), "'earthquake' is not a fault"),
        (lambda: Faults.from_json({"refused": [{"colour": "red"}]}), "'refused' has no field colour"),
    ],
)
def test_wrong_faults_are_refused(make: Any, reason: str) -> None:
    """A fault that cannot be is refused, naming argument and value."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match=reason):
        make()


def test_losing_an_unknown_instance_is_refused(cloud: Any) -> None:
    """An instance that is not in service cannot be lost."""
    # WHEN, THEN
    with pytest.raises(LocalCloudError, match="no instance i-0"):
        cloud.lose("i-0")
