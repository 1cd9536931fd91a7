"""Auto Scaling groups, against AWS's documented behaviour."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.waiting import eventually

LARGE = ("g5.12xlarge", "on-demand")
SMALL = ("g5.xlarge", "on-demand")
LARGE_SPOT = ("g5.12xlarge", "spot")
SMALL_SPOT = ("g5.xlarge", "spot")


@pytest.mark.parametrize(
    ("strategies", "base", "capacity", "kinds"),
    [
        # By price per unit: 1.006 USD for g5.xlarge, 5.672 / 4 = 1.418 USD for g5.12xlarge.
        (("lowest-price", "lowest-price"), 0, 2, [SMALL_SPOT, SMALL_SPOT]),
        (("lowest-price", "lowest-price"), 2, 2, [SMALL, SMALL]),
        (("lowest-price", "price-capacity-optimized"), 4, 4, [SMALL, SMALL, SMALL, SMALL]),
        # By the order of the overrides, the large type first, also for what is less than one of it.
        (("prioritized", "price-capacity-optimized"), 4, 5, [LARGE, SMALL_SPOT]),
        (("prioritized", "price-capacity-optimized"), 1, 6, [LARGE, SMALL_SPOT, SMALL_SPOT]),
        (("prioritized", "price-capacity-optimized"), 16, 9, [LARGE, LARGE, LARGE]),
        (("prioritized", "capacity-optimized-prioritized"), 1, 2, [LARGE]),
    ],
)
def test_groups_fill_by_weight(
    fleets: Any, strategies: tuple[str, str], base: int, capacity: int, kinds: list[tuple[str, str]]
) -> None:
    """
    A group launches what its strategies say until its capacity is reached, On-Demand up to its base, the rest on Spot.

    Auto Scaling User Guide, "Configure an Auto Scaling group to use instance weights": with weights the price of a unit
    decides, and the capacity is met "even if this results in an overage".
    """
    # GIVEN
    fleet = fleets.create(base=base, strategies=strategies)

    # WHEN
    fleet.scale(capacity)

    # THEN
    assert fleet.kinds() == sorted(kinds)
    assert sum(int(member["WeightedCapacity"]) for member in fleet.members()) >= capacity


def test_a_heavier_type_may_be_cheaper(fleets: Any) -> None:
    """By price per unit, one unit that is missing becomes an instance of four when that is cheaper."""
    # GIVEN g5.12xlarge at 5.672 / 4 = 1.418 USD, and g5.4xlarge at 1.624 USD
    fleet = fleets.create(
        base=1, types=(("g5.4xlarge", 1), ("g5.12xlarge", 4)), strategies=("lowest-price", "lowest-price")
    )

    # WHEN
    fleet.scale(1)

    # THEN
    assert fleet.kinds() == [LARGE]


def test_groups_without_a_fitting_type_overshoot(fleets: Any) -> None:
    """When every type is larger than what is missing, one is launched all the same."""
    # GIVEN
    fleet = fleets.create(types=(("p4d.24xlarge", 8), ("g5.12xlarge", 4)))

    # WHEN
    fleet.scale(2)

    # THEN
    assert fleet.kinds() == [LARGE_SPOT]


def test_instances_are_spread_and_tagged(fleets: Any) -> None:
    """Instances use all subnets in turn, carry the group's propagated tags, and have the template's user data."""
    # GIVEN
    fleet = fleets.create(user_data="aGVsbG8=")

    # WHEN
    fleet.scale(2)

    # THEN
    instances = fleet.instances()
    tags = [{tag["Key"]: tag["Value"] for tag in instance["Tags"]} for instance in instances]
    attribute = fleet.ec2.describe_instance_attribute(InstanceId=instances[0]["InstanceId"], Attribute="userData")
    assert sorted(instance["Placement"]["AvailabilityZone"] for instance in instances) == fleet.zones
    assert [(tag["fleet"], tag["aws:autoscaling:groupName"]) for tag in tags] == [("mine", fleet.name)] * 2
    assert attribute["UserData"] == {"Value": "aGVsbG8="}


def test_scaling_in_spares_on_demand(fleets: Any) -> None:
    """A smaller capacity terminates Spot instances first, and only as many as leave it covered."""
    # GIVEN
    fleet = fleets.create(base=4)
    fleet.scale(6)

    # WHEN
    fleet.scale(5)
    after_five = fleet.kinds()
    fleet.scale(3)

    # THEN
    assert after_five == sorted([LARGE, SMALL_SPOT])
    assert fleet.kinds() == [LARGE]


def test_new_policy_and_subnets_hold_for_later_launches(fleets: Any) -> None:
    """An update of types and subnets changes what is launched from then on; what runs stays, and counts."""
    # GIVEN
    fleet = fleets.create(types=(("g5.xlarge", 1),))
    fleet.scale(2)
    before = fleet.members()
    group = fleet.describe()
    subnets = group["VPCZoneIdentifier"].split(",")
    template = group["MixedInstancesPolicy"]["LaunchTemplate"]["LaunchTemplateSpecification"]

    # WHEN
    fleet.api.update_auto_scaling_group(
        AutoScalingGroupName=fleet.name,
        DesiredCapacity=6,
        VPCZoneIdentifier=subnets[0],
        MixedInstancesPolicy={
            "LaunchTemplate": {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateId": template["LaunchTemplateId"],
                    "Version": template["Version"],
                },
                "Overrides": [{"InstanceType": "g5.12xlarge", "WeightedCapacity": "4"}],
            },
        },
    )
    fleet.wait_for_answers()

    # THEN
    assert fleet.kinds() == sorted([SMALL_SPOT, SMALL_SPOT, LARGE_SPOT])
    assert {member["InstanceId"] for member in before} < {member["InstanceId"] for member in fleet.members()}
    (zone,) = [member["AvailabilityZone"] for member in fleet.members() if member not in before]
    assert zone == fleet.ec2.describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]["AvailabilityZone"]


def test_suspended_processes_do_nothing(fleets: Any) -> None:
    """A group whose Launch is suspended launches nothing until it is resumed and asked again."""
    # GIVEN
    fleet = fleets.create()
    fleet.api.suspend_processes(AutoScalingGroupName=fleet.name, ScalingProcesses=["Launch"])

    # WHEN
    fleet.scale(1)
    suspended = fleet.kinds()
    fleet.api.resume_processes(AutoScalingGroupName=fleet.name, ScalingProcesses=["Launch"])
    fleet.scale(1)

    # THEN
    assert (suspended, fleet.kinds()) == ([], [SMALL_SPOT])


def test_capacity_stays_within_bounds(fleets: Any) -> None:
    """SetDesiredCapacity refuses what is above the maximum, and a group that does not exist."""
    # GIVEN
    fleet = fleets.create()

    # WHEN, THEN
    with pytest.raises(ClientError, match="New SetDesiredCapacity value 17 is above max value 16"):
        fleet.api.set_desired_capacity(AutoScalingGroupName=fleet.name, DesiredCapacity=17)
    with pytest.raises(ClientError, match="AutoScalingGroup name not found"):
        fleet.api.set_desired_capacity(AutoScalingGroupName="missing", DesiredCapacity=1)


def test_updates_keep_what_they_do_not_name(fleets: Any) -> None:
    """An update of the capacity keeps the policy; one beyond the bounds is refused; new bounds move the capacity."""
    # GIVEN
    fleet = fleets.create(base=4)
    before = fleet.describe()["MixedInstancesPolicy"]

    # WHEN
    fleet.scale(6)
    with pytest.raises(ClientError, match="Desired capacity:17 must be between the specified min size:0 and max size"):
        fleet.scale(17)
    fleet.api.update_auto_scaling_group(AutoScalingGroupName=fleet.name, MaxSize=4)

    # THEN
    assert fleet.describe()["MixedInstancesPolicy"] == before
    assert (fleet.describe()["DesiredCapacity"], fleet.kinds()) == (4, [LARGE])


def test_terminating_one_instance_counts_its_weight(fleets: Any) -> None:
    """Terminating an instance with decrement lowers the capacity by its weight; never below the minimum."""
    # GIVEN
    fleet = fleets.create(base=4)
    fleet.scale(5)
    large = next(member for member in fleet.members() if member["WeightedCapacity"] == "4")

    # WHEN
    answer = fleet.api.terminate_instance_in_auto_scaling_group(
        InstanceId=large["InstanceId"], ShouldDecrementDesiredCapacity=True
    )

    # THEN
    assert answer["Activity"]["Description"] == f"Terminating EC2 instance: {large['InstanceId']}"
    assert (fleet.describe()["DesiredCapacity"], fleet.kinds()) == (1, [SMALL_SPOT])
    fleet.api.update_auto_scaling_group(AutoScalingGroupName=fleet.name, MinSize=1)
    with pytest.raises(ClientError, match="violate group's min size constraint"):
        fleet.api.terminate_instance_in_auto_scaling_group(
            InstanceId=fleet.members()[0]["InstanceId"], ShouldDecrementDesiredCapacity=True
        )
    with pytest.raises(ClientError, match="No managed instance found"):
        fleet.api.terminate_instance_in_auto_scaling_group(
            InstanceId=large["InstanceId"], ShouldDecrementDesiredCapacity=True
        )


def test_terminated_instances_leave_their_group(fleets: Any) -> None:
    """An instance terminated in EC2 leaves its group, which replaces it as long as the capacity says so."""
    # GIVEN
    fleet = fleets.create()
    fleet.scale(1)
    lost = fleet.members()[0]["InstanceId"]

    # WHEN
    fleet.ec2.terminate_instances(InstanceIds=[lost])

    # THEN
    assert lost not in [member["InstanceId"] for member in fleet.members()]
    assert len(eventually(fleet.members)) == 1
    fleet.wait_for_answers()
    descriptions = [activity["Description"] for activity in fleet.activities()]
    assert f"Terminating EC2 instance: {lost}" in descriptions
    fleet.scale(0)
    fleet.ec2.terminate_instances(InstanceIds=[lost])
    assert fleet.members() == []


def test_deleting_a_group_terminates_all_of_it(fleets: Any) -> None:
    """A stack's group is deleted with its instances, protected or not."""
    # GIVEN
    fleet = fleets.create()
    fleet.scale(2)
    instances = [member["InstanceId"] for member in fleet.members()]
    fleet.api.set_instance_protection(AutoScalingGroupName=fleet.name, InstanceIds=instances, ProtectedFromScaleIn=True)

    # WHEN
    fleet.api.delete_auto_scaling_group(AutoScalingGroupName=fleet.name)
    fleets.made.remove(fleet)

    # THEN
    answer = fleet.ec2.describe_instances(InstanceIds=instances)
    states = {item["State"]["Name"] for reservation in answer["Reservations"] for item in reservation["Instances"]}
    assert states == {"terminated"}


def group_template(*, maximum: int) -> dict[str, Any]:
    """A template with one group, its name and its ARN."""
    launch_template = {
        "Type": "AWS::EC2::LaunchTemplate",
        "Properties": {"LaunchTemplateData": {"ImageId": "ami-1", "InstanceType": "g5.xlarge"}},
    }
    specification = {
        "LaunchTemplateId": {"Ref": "Template"},
        "Version": {"Fn::GetAtt": ["Template", "LatestVersionNumber"]},
    }
    group = {
        "Type": "AWS::AutoScaling::AutoScalingGroup",
        "Properties": {
            "MinSize": "0",
            "MaxSize": str(maximum),
            "AvailabilityZones": ["eu-west-1a"],
            "MixedInstancesPolicy": {
                "LaunchTemplate": {
                    "LaunchTemplateSpecification": specification,
                    "Overrides": [{"InstanceType": "g5.xlarge", "WeightedCapacity": "1"}],
                },
                "InstancesDistribution": {"OnDemandBaseCapacity": 1, "OnDemandPercentageAboveBaseCapacity": 0},
            },
        },
    }
    return {
        "Resources": {"Template": launch_template, "Group": group},
        "Outputs": {
            "Name": {"Value": {"Ref": "Group"}},
            "Arn": {"Value": {"Fn::GetAtt": ["Group", "AutoScalingGroupARN"]}},
        },
    }


def test_groups_have_their_arn_as_attribute(cloud: Any, stacks: Any) -> None:
    """A template can ask for a group's ARN; the group rests at its minimum."""
    # WHEN
    stack = stacks.create(group_template(maximum=2))

    # THEN
    name = stack["outputs"]["Name"]
    answer = cloud.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    group = answer["AutoScalingGroups"][0]
    assert stack["outputs"]["Arn"] == group["AutoScalingGroupARN"]
    assert (group["DesiredCapacity"], group["Instances"]) == (0, [])


def test_stack_updates_change_groups_in_place(cloud: Any, stacks: Any) -> None:
    """An update of a group's template keeps the group, its capacity and its instances."""
    # GIVEN
    stack = stacks.create(group_template(maximum=2))
    name = {"AutoScalingGroupNames": [stack["outputs"]["Name"]]}
    autoscaling = cloud.client("autoscaling")
    autoscaling.set_desired_capacity(AutoScalingGroupName=stack["outputs"]["Name"], DesiredCapacity=1)
    before = eventually(
        lambda: autoscaling.describe_auto_scaling_groups(**name)["AutoScalingGroups"][0],
        lambda group: len(group["Instances"]) == 1,
    )

    # WHEN
    stacks.api.update_stack(StackName=stack["StackName"], TemplateBody=json.dumps(group_template(maximum=5)))

    # THEN
    after = autoscaling.describe_auto_scaling_groups(**name)["AutoScalingGroups"][0]
    assert (before["MaxSize"], after["MaxSize"]) == (2, 5)
    assert [item["InstanceId"] for item in after["Instances"]] == [item["InstanceId"] for item in before["Instances"]]
