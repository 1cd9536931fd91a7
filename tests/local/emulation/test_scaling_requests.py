"""What Auto Scaling documents on single instances, markets, late launches and activities, and moto does otherwise."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from horovod_local import Faults
from support.waiting import eventually

SMALL = ("g5.xlarge", "on-demand")
SMALL_SPOT = ("g5.xlarge", "spot")
ONE_TYPE = (("g5.xlarge", 1),)
EQUILIBRIUM = "Could not scale to desired capacity because all remaining instances are protected from scale in."


def ids(fleet: Any) -> list[str]:
    """List the group's instances."""
    return [member["InstanceId"] for member in fleet.members()]


def test_scaling_activities_are_listed(fleets: Any) -> None:
    """Launches and terminations are listed, newest first, and can be filtered by time, status and id."""
    # GIVEN
    fleet = fleets.create()
    start = datetime.datetime.now(datetime.UTC)

    # WHEN
    fleet.scale(1)
    instance = fleet.members()[0]["InstanceId"]
    fleet.scale(0)

    # THEN
    activities = fleet.activities()
    described = [(item["Description"], item["StatusCode"], item["AutoScalingGroupName"]) for item in activities]
    assert described == [
        (f"Terminating EC2 instance: {instance}", "Successful", fleet.name),
        (f"Launching a new EC2 instance: {instance}", "Successful", fleet.name),
    ]
    oldest = activities[-1]["ActivityId"]
    later = (start + datetime.timedelta(hours=1)).isoformat()
    for query, found in (
        ({"ActivityIds": [oldest]}, [oldest]),
        ({"MaxRecords": 1}, [activities[0]["ActivityId"]]),
        ({"Filters": [{"Name": "StartTimeLowerBound", "Values": [later]}]}, []),
        ({"Filters": [{"Name": "Status", "Values": ["Failed"]}]}, []),
    ):
        answer = fleet.api.describe_scaling_activities(AutoScalingGroupName=fleet.name, **query)
        assert [item["ActivityId"] for item in answer["Activities"]] == found


def test_unfinished_activities_come_first(fleets: Any, faults: Any) -> None:
    """
    Activities that have not ended are listed before all others, however old they are; 100 at once are the most.

    API Reference, DescribeScalingActivities: "Activities still in progress appear first on the list"; MaxRecords: "The
    default value is 100 and the maximum value is 100".
    """
    # GIVEN an instance whose termination takes long
    fleet = fleets.create(types=ONE_TYPE)
    fleet.scale(2)
    faults.set_faults(Faults(termination_delay_seconds=100))
    fleet.scale(1)
    terminating = fleet.activities()[0]

    # WHEN another one is launched meanwhile
    fleet.scale(2)
    eventually(fleet.activities, lambda found: found[1]["Description"].startswith("Launching"))

    # THEN
    assert (terminating["StatusCode"], terminating["Progress"]) == ("InProgress", 0)
    assert "EndTime" not in terminating
    assert fleet.activities()[0]["ActivityId"] == terminating["ActivityId"]
    with pytest.raises(ClientError, match="MaxRecords"):
        fleet.api.describe_scaling_activities(AutoScalingGroupName=fleet.name, MaxRecords=101)


def test_launches_are_answered_later(fleets: Any, faults: Any) -> None:
    """
    Between a launch and EC2's answer the group lists nothing and has its new capacity; its activity is unfinished.

    An instance that arrives after the capacity was lowered to 0 is terminated then: launching takes a while, and
    SetDesiredCapacity takes none of it back (Auto Scaling User Guide, "Amazon EC2 Auto Scaling instance lifecycle").
    """
    # GIVEN
    fleet = fleets.create(base=1, types=ONE_TYPE)
    faults.set_faults(Faults(launch_answer_seconds=100))
    fleet.api.set_desired_capacity(AutoScalingGroupName=fleet.name, DesiredCapacity=2)

    # WHEN
    asked, group = fleet.unanswered(), fleet.describe()
    fleet.api.set_desired_capacity(AutoScalingGroupName=fleet.name, DesiredCapacity=0)
    empty = fleet.describe()
    faults.set_faults(Faults())

    # THEN
    assert (group["DesiredCapacity"], group["Instances"]) == (2, [])
    assert sorted(item["StatusCode"] for item in asked) == ["WaitingForInstanceId", "WaitingForSpotInstanceId"]
    assert {item["Description"] for item in asked} == {"Launching a new EC2 instance"}
    assert (empty["DesiredCapacity"], empty["Instances"], len(asked)) == (0, [], 2)
    done = eventually(fleet.activities, lambda found: [item["StatusCode"] for item in found] == ["Successful"] * 4)
    assert sorted(item["Description"].partition(":")[0] for item in done) == [
        "Launching a new EC2 instance",
        "Launching a new EC2 instance",
        "Terminating EC2 instance",
        "Terminating EC2 instance",
    ]
    assert ids(fleet) == []


@pytest.mark.parametrize(
    ("before", "after", "from_kind", "to_kind"),
    [
        ({}, {"percentage": 100}, SMALL_SPOT, SMALL),
        ({}, {"base": 2}, SMALL_SPOT, SMALL),
        ({"percentage": 100}, {}, SMALL, SMALL_SPOT),
    ],
)
def test_changed_market_shares_replace_instances(
    fleets: Any,
    before: dict[str, int],
    after: dict[str, int],
    from_kind: tuple[str, str],
    to_kind: tuple[str, str],
) -> None:
    """
    A new base or percentage replaces what runs, one after the other, and launches before it terminates.

    CloudFormation Template Reference, AWS::AutoScaling::AutoScalingGroup InstancesDistribution, on
    OnDemandBaseCapacity and OnDemandPercentageAboveBaseCapacity.
    """
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.share(**before)
    fleet.scale(2)
    old = ids(fleet)

    # WHEN
    counts: set[int] = set()

    def kinds() -> list[tuple[str, str]]:
        counts.add(len([item for item in fleet.members() if item["LifecycleState"] == "InService"]))
        return list(fleet.kinds())

    first = fleet.kinds()
    fleet.share(**after)
    last = eventually(kinds, lambda found: found == [to_kind] * 2)

    # THEN
    assert (first, last) == ([from_kind] * 2, [to_kind] * 2)
    assert not set(old) & set(ids(fleet))
    assert min(counts) == 2


def test_equal_market_shares_replace_nothing(fleets: Any) -> None:
    """An update that repeats the shares, or changes them while nothing runs, replaces nothing."""
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.share(percentage=100)
    fleet.scale(1)
    before = ids(fleet)

    # WHEN
    fleet.share(percentage=100)
    fleet.scale(2)

    # THEN
    assert set(before) < set(ids(fleet))
    assert fleet.kinds() == [SMALL, SMALL]


def test_lifting_protection_changes_no_capacity(fleets: Any) -> None:
    """
    A protected instance stays in a group whose capacity is 0, also when its protection is lifted afterwards.

    Auto Scaling User Guide, "Use instance scale-in protection to control instance termination" has the message of the
    activity. The group has then found its equilibrium: it is asked again by another capacity, not by the same.
    """
    # GIVEN
    fleet = fleets.create(base=1, types=ONE_TYPE)
    fleet.scale(3)
    leader = next(item["InstanceId"] for item in fleet.instances() if "InstanceLifecycle" not in item)
    fleet.protect(leader)

    # WHEN
    fleet.scale(0)
    protected, said = ids(fleet), [item["Description"] for item in fleet.activities()]
    fleet.protect(leader, protected=False)
    fleet.api.set_desired_capacity(AutoScalingGroupName=fleet.name, DesiredCapacity=0)
    lifted = ids(fleet)
    fleet.api.terminate_instance_in_auto_scaling_group(InstanceId=leader, ShouldDecrementDesiredCapacity=False)

    # THEN
    assert (protected, lifted, ids(fleet)) == ([leader], [leader], [])
    assert EQUILIBRIUM in said
    with pytest.raises(ClientError, match="is not part of Auto Scaling group"):
        fleet.protect(leader)


def test_another_capacity_scales_in_again(fleets: Any) -> None:
    """Once the protection is lifted, a capacity that changes lets the group terminate what it has too much of."""
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.scale(2)
    fleet.protect(*ids(fleet))
    fleet.scale(1)
    fleet.protect(*ids(fleet), protected=False)

    # WHEN
    fleet.scale(0)

    # THEN
    assert ids(fleet) == []


def test_standby_counts_the_weight(fleets: Any) -> None:
    """
    An instance on standby counts for no capacity, and stays when there is none; it ends by its id.

    Auto Scaling User Guide, "Temporarily remove instances from your Auto Scaling group"; API Reference, EnterStandby.
    """
    # GIVEN
    fleet = fleets.create(base=4)
    fleet.scale(5)
    large = next(member["InstanceId"] for member in fleet.members() if member["WeightedCapacity"] == "4")
    standby = {"AutoScalingGroupName": fleet.name, "InstanceIds": [large]}

    # WHEN
    fleet.api.enter_standby(**standby, ShouldDecrementDesiredCapacity=True)
    lowered = fleet.describe()["DesiredCapacity"]
    fleet.scale(0)
    left = [(member["InstanceId"], member["LifecycleState"]) for member in fleet.members()]
    fleet.api.terminate_instance_in_auto_scaling_group(InstanceId=large, ShouldDecrementDesiredCapacity=False)

    # THEN
    assert (lowered, left, ids(fleet)) == (1, [(large, "Standby")], [])
    with pytest.raises(ClientError, match="No managed instance found"):
        fleet.api.exit_standby(**standby)


def test_standby_below_the_minimum_is_refused(fleets: Any) -> None:
    """An instance goes on standby with decrement only as long as the minimum is kept, and without it is replaced."""
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.scale(1)
    fleet.api.update_auto_scaling_group(AutoScalingGroupName=fleet.name, MinSize=1)
    standby = {"AutoScalingGroupName": fleet.name, "InstanceIds": ids(fleet)}

    # WHEN
    with pytest.raises(ClientError, match="violate group's min size constraint"):
        fleet.api.enter_standby(**standby, ShouldDecrementDesiredCapacity=True)
    fleet.api.enter_standby(**standby, ShouldDecrementDesiredCapacity=False)
    fleet.wait_for_answers()

    # THEN
    assert sorted(member["LifecycleState"] for member in fleet.members()) == ["InService", "Standby"]
    fleet.api.exit_standby(**standby)
    assert fleet.describe()["DesiredCapacity"] == 2


def test_retained_instances_end_by_their_id(fleets: Any, faults: Any) -> None:
    """
    A retained instance counts for no capacity, runs on, and ends when it is terminated by its id.

    Auto Scaling User Guide, "Control instance retention with instance lifecycle policies".
    """
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.scale(2)
    members = sorted(ids(fleet))
    faults.set_faults(Faults(terminations_retained=True))

    # WHEN
    fleet.scale(0)
    states = {member["LifecycleState"] for member in fleet.members()}
    running = {instance["State"]["Name"] for instance in fleet.instances()}
    answer = fleet.api.terminate_instance_in_auto_scaling_group(
        AutoScalingGroupName=fleet.name, InstanceIds=members, ShouldDecrementDesiredCapacity=False
    )

    # THEN
    assert (states, running) == ({"Terminating:Retained"}, {"running"})
    assert len(answer["Activities"]) == 2
    assert ids(fleet) == []


def test_decrement_below_the_minimum_is_refused(fleets: Any) -> None:
    """A node of four in a group that wanted two cannot leave with decrement: that would be below the minimum."""
    # GIVEN
    fleet = fleets.create(types=(("g5.12xlarge", 4),))
    fleet.scale(2)

    # WHEN, THEN
    with pytest.raises(ClientError, match="violate group's min size constraint") as refused:
        fleet.api.terminate_instance_in_auto_scaling_group(
            InstanceId=ids(fleet)[0], ShouldDecrementDesiredCapacity=True
        )
    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert fleet.describe()["DesiredCapacity"] == 2


def test_cooldowns_may_be_honoured(fleets: Any) -> None:
    """
    A new capacity is refused during the cooldown when it is to be honoured, and taken when it is not, the default.

    API Reference, SetDesiredCapacity: HonorCooldown, and the error ScalingActivityInProgress.
    """
    # GIVEN
    fleet = fleets.create(types=ONE_TYPE)
    fleet.scale(1)

    # WHEN
    request = {"AutoScalingGroupName": fleet.name, "DesiredCapacity": 0}
    with pytest.raises(ClientError) as refused:
        fleet.api.set_desired_capacity(**request, HonorCooldown=True)
    fleet.api.set_desired_capacity(**request)

    # THEN
    assert refused.value.response["Error"]["Code"] == "ScalingActivityInProgress"
    assert ids(fleet) == []
