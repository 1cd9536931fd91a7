"""`GpuFleet`: a group of GPU instances that rests at zero."""

from __future__ import annotations

from typing import Any

import pytest
from aws_cdk import App, Size, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms

from cdk_horovod import CapacityPlan, GpuFleet, NetworkMode, TrainingNetwork
from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth

GROUP = "AWS::AutoScaling::AutoScalingGroup"
TEMPLATE = "AWS::EC2::LaunchTemplate"


class Fleets:
    """Fleets of every kind in one stack, as a user may have them; and what each says of itself."""

    def __init__(self, app: App) -> None:
        stack = Stack(app, "Fleets")
        network = TrainingNetwork(stack, "Network")
        one_zone = ec2.SubnetSelection(subnets=network.vpc.isolated_subnets[:1])
        place = {"vpc": network.vpc, "vpc_subnets": network.subnets}
        self.mixed = GpuFleet(
            stack,
            "Mixed",
            **place,
            instance_types=["g5.12xlarge", "g5.48xlarge"],
            max_gpus=32,
            on_demand_base_gpus=4,
        )
        self.mixed.user_data.add_commands("echo added after construction")
        self.spot = GpuFleet(stack, "Spot", **place, instance_types=["g5.xlarge"], max_gpus=4)
        self.on_demand = GpuFleet(stack, "OnDemand", **place, instance_types=["g5.xlarge"], max_gpus=4, spot=False)
        self.efa = GpuFleet(
            stack,
            "Efa",
            vpc=network.vpc,
            vpc_subnets=one_zone,
            instance_types=["p4d.24xlarge"],
            max_gpus=16,
            efa=True,
        )
        self.without_efa = GpuFleet(stack, "WithoutEfa", **place, instance_types=["p4d.24xlarge"], max_gpus=16)
        self.bounded = GpuFleet(
            stack,
            "Bounded",
            **place,
            instance_types=["g5.xlarge"],
            max_gpus=4,
            boundary=network.boundary,
            session_manager=True,
            machine_image="ami-0123456789abcdef0",
            volume_throughput=1000,
        )
        narrow = TrainingNetwork(stack, "Narrow", gateway_prefix_lists=["pl-6da54004", "pl-6fa54006"])
        self.narrow = GpuFleet(
            stack,
            "NarrowFleet",
            vpc=narrow.vpc,
            vpc_subnets=narrow.subnets,
            instance_types=["g5.xlarge"],
            max_gpus=4,
            boundary=narrow.boundary,
        )
        self.brought = GpuFleet(
            stack,
            "Brought",
            **place,
            instance_types=["p3.16xlarge"],
            max_gpus=16,
            machine_image=ec2.MachineImage.generic_linux({"eu-west-1": "ami-0123456789abcdef0"}),
            root_device_name="/dev/sda1",
            volume_size=Size.gibibytes(500),
            encryption_key=kms.Key(stack, "Key", enable_key_rotation=True),
            role=iam.Role(stack, "MyRole", assumed_by=iam.ServicePrincipal("ec2.amazonaws.com")),
            security_group=ec2.SecurityGroup(
                stack, "MyGroup", vpc=network.vpc, description="mine", allow_all_outbound=False
            ),
        )
        self.arn = stack.resolve(self.mixed.auto_scaling_group_arn)
        self.name = stack.resolve(self.mixed.auto_scaling_group_name)


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stacks, Fleets]:
    made: list[Fleets] = []
    stacks = synthesise_validated(tmp_path_factory.mktemp("fleet"), lambda app: made.append(Fleets(app)))
    return stacks, made[0]


@pytest.fixture(scope="module")
def stacks(synthesised: tuple[Stacks, Fleets]) -> Stacks:
    return synthesised[0]


@pytest.fixture(scope="module")
def fleets(synthesised: tuple[Stacks, Fleets]) -> Fleets:
    return synthesised[1]


def launch_data(stacks: Stacks, fleet: str) -> Any:
    return stacks.resource("Fleets", TEMPLATE, id=fleet)["LaunchTemplateData"]


def test_group_rests_at_zero_and_counts_in_gpus(stacks: Stacks) -> None:
    """Sizes are GPUs, each type weighs its GPUs, and no deployment sets a desired capacity."""
    # WHEN
    group = stacks.resource("Fleets", GROUP, id="Mixed")

    # THEN
    assert (group["MinSize"], group["MaxSize"]) == ("0", "32")
    assert "DesiredCapacity" not in group
    assert group["MixedInstancesPolicy"]["LaunchTemplate"]["Overrides"] == [
        {"InstanceType": "g5.12xlarge", "WeightedCapacity": "4"},
        {"InstanceType": "g5.48xlarge", "WeightedCapacity": "8"},
    ]


@pytest.mark.parametrize(("fleet", "base", "percentage"), [("Mixed", 4, 0), ("Spot", 0, 0), ("OnDemand", 0, 100)])
def test_markets_are_those_that_were_asked_for(stacks: Stacks, fleet: str, base: int, percentage: int) -> None:
    """A group launches On-Demand up to its base and then Spot, or On-Demand only."""
    group = stacks.resource("Fleets", GROUP, id=fleet)
    assert group["MixedInstancesPolicy"]["InstancesDistribution"] == {
        "OnDemandBaseCapacity": base,
        "OnDemandPercentageAboveBaseCapacity": percentage,
        "OnDemandAllocationStrategy": "prioritized",
        "SpotAllocationStrategy": "price-capacity-optimized",
    }


def test_group_shows_one_launch_template(stacks: Stacks) -> None:
    """The group has one launch template in a literal version, and not the one that cdk-nag is shown."""
    # WHEN
    group = stacks.resource("Fleets", GROUP, id="Mixed")

    # THEN
    assert "LaunchTemplate" not in group
    (template,) = stacks.resources("Fleets", TEMPLATE, id="Mixed")
    assert group["MixedInstancesPolicy"]["LaunchTemplate"]["LaunchTemplateSpecification"] == {
        "LaunchTemplateId": {"Ref": template},
        "Version": "1",
    }


def test_instances_are_locked_down(stacks: Stacks) -> None:
    """Instances have IMDSv2 only and encrypted volumes, and are terminated when they shut down."""
    # WHEN
    data = launch_data(stacks, "Mixed")

    # THEN
    assert data["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert data["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/xvda",
            "Ebs": {
                "DeleteOnTermination": True,
                "Encrypted": True,
                "Throughput": 500,
                "VolumeSize": 200,
                "VolumeType": "gp3",
            },
        }
    ]
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert "KeyName" not in data


def test_image_is_found_at_deployment(stacks: Stacks) -> None:
    """The Deep Learning AMI comes from Systems Manager, so synthesis looks nothing up."""
    # WHEN
    parameter = stacks.templates["Fleets"].to_json()["Parameters"][launch_data(stacks, "Mixed")["ImageId"]["Ref"]]

    # THEN
    assert parameter["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    assert parameter["Default"].endswith("/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id")


def test_image_can_be_pinned(stacks: Stacks) -> None:
    """An AMI that is named is in the template unchanged, whatever the Region."""
    assert launch_data(stacks, "Bounded")["ImageId"] == "ami-0123456789abcdef0"


def test_fast_volumes_have_the_operations_that_they_need(stacks: Stacks) -> None:
    """A volume has the IOPS that its throughput needs: Amazon EBS gives 0.25 MiB/s for each."""
    (volume,) = launch_data(stacks, "Bounded")["BlockDeviceMappings"]
    assert (volume["Ebs"]["Throughput"], volume["Ebs"]["Iops"]) == (1000, 4000)


def test_credentials_are_worth_nothing_outside_the_boundary(stacks: Stacks) -> None:
    """The role may call AWS only through the network's endpoints, or through a service that acts for it."""
    # WHEN
    deny = [each for each in stacks.statements("Fleets", role="BoundedRole") if each["Effect"] == "Deny"]
    # THEN
    ((vpc, _),) = stacks.resources("Fleets", "AWS::EC2::VPC", id="NetworkVpc").items()
    assert deny == [
        {
            "Sid": "OnlyThroughEndpoints",
            "Effect": "Deny",
            "Action": "*",
            "Resource": "*",
            "Condition": {
                "StringNotEquals": {"aws:SourceVpc": {"Ref": vpc}},
                "Bool": {"aws:ViaAWSService": "false"},
            },
        }
    ]


def test_https_leaves_to_the_boundary_only(stacks: Stacks) -> None:
    """The security group names the endpoints where their addresses are known."""
    # WHEN
    (group,) = stacks.resources("Fleets", "AWS::EC2::SecurityGroup", id="NarrowFleetSecurityGroup").values()
    rules = [
        *group.get("SecurityGroupEgress", []),
        *stacks.resources("Fleets", "AWS::EC2::SecurityGroupEgress", id="NarrowFleetSecurityGroup").values(),
    ]
    # THEN
    https = [rule for rule in rules if rule.get("ToPort") == 443]
    assert [rule for rule in rules if "CidrIp" in rule] == []
    assert {rule["DestinationPrefixListId"] for rule in https if "DestinationPrefixListId" in rule} == {
        "pl-6da54004",
        "pl-6fa54006",
    }
    (endpoints,) = [flat(rule["DestinationSecurityGroupId"]) for rule in https if "DestinationSecurityGroupId" in rule]
    assert endpoints.startswith("NarrowEndpointSecurityGroup")


def test_sessions_are_for_whoever_asked(stacks: Stacks) -> None:
    """A fleet with sessions has the agent's exact actions, and another fleet none of them."""
    # WHEN
    allowed = [each for each in stacks.statements("Fleets", role="BoundedRole") if each["Effect"] == "Allow"]
    # THEN
    assert [each["Action"] for each in allowed] == [
        [
            "ssm:UpdateInstanceInformation",
            "ssmmessages:CreateControlChannel",
            "ssmmessages:CreateDataChannel",
            "ssmmessages:OpenControlChannel",
            "ssmmessages:OpenDataChannel",
        ]
    ]


def test_user_data_can_be_completed_later(stacks: Stacks) -> None:
    """An engine adds its commands after the fleet is made."""
    assert launch_data(stacks, "Mixed")["UserData"]["Fn::Base64"] == "#!/bin/bash\necho added after construction"


def test_security_group_lets_nothing_in_from_outside(stacks: Stacks) -> None:
    """Nodes talk to each other, and out over HTTPS."""
    # WHEN
    ((group, properties),) = stacks.resources("Fleets", "AWS::EC2::SecurityGroup", id="MixedSecurityGroup").items()
    arrivals = stacks.resources("Fleets", "AWS::EC2::SecurityGroupIngress", id="MixedSecurityGroup").values()
    departures = stacks.resources("Fleets", "AWS::EC2::SecurityGroupEgress", id="MixedSecurityGroup").values()

    # THEN
    assert "SecurityGroupIngress" not in properties
    assert [(rule["CidrIp"], rule["FromPort"], rule["ToPort"]) for rule in properties["SecurityGroupEgress"]] == [
        ("0.0.0.0/0", 443, 443)
    ]
    assert [(flat(rule["SourceSecurityGroupId"]), rule["IpProtocol"]) for rule in arrivals] == [(group, "-1")]
    assert [(flat(rule["DestinationSecurityGroupId"]), rule["IpProtocol"]) for rule in departures] == [(group, "-1")]


def test_role_has_no_permission_of_its_own(stacks: Stacks) -> None:
    """A role of nodes has no permission until something is granted."""
    # WHEN
    role = stacks.resource("Fleets", "AWS::IAM::Role", id="MixedRole")

    # THEN
    assert role.keys() == {"AssumeRolePolicyDocument", "Description"}
    assert list(stacks.statements("Fleets", role="MixedRole")) == []


def test_adapters_and_placement_come_with_efa(stacks: Stacks) -> None:
    """Each adapter is an interface of the launch template, whose instances are placed close together."""
    # WHEN
    data = launch_data(stacks, "Efa")

    # THEN
    (group,) = stacks.resources("Fleets", "AWS::EC2::SecurityGroup", id="EfaSecurityGroup")
    (placement,) = stacks.resources("Fleets", "AWS::EC2::PlacementGroup")
    places = [
        (each["NetworkCardIndex"], each["DeviceIndex"], each["InterfaceType"]) for each in data["NetworkInterfaces"]
    ]
    assert places == [
        (0, 0, "interface"),
        (0, 1, "efa-only"),
        (1, 0, "efa-only"),
        (2, 0, "efa-only"),
        (3, 0, "efa-only"),
    ]
    assert {flat(each["Groups"][0]) for each in data["NetworkInterfaces"]} == {group}
    assert "SecurityGroupIds" not in data
    assert data["Placement"] == {"GroupName": {"Fn::GetAtt": [placement, "GroupName"]}}
    assert stacks.resource("Fleets", "AWS::EC2::PlacementGroup")["Strategy"] == "cluster"


def test_what_the_user_brings_is_used(stacks: Stacks) -> None:
    """Image, volume, key, role and security group of the user replace ours."""
    # WHEN
    data = launch_data(stacks, "Brought")
    profile = stacks.resource("Fleets", "AWS::IAM::InstanceProfile", id="Brought")

    # THEN
    ((key, _),) = stacks.resources("Fleets", "AWS::KMS::Key").items()
    (volume,) = data["BlockDeviceMappings"]
    assert volume["DeviceName"] == "/dev/sda1"
    assert (volume["Ebs"]["VolumeSize"], volume["Ebs"]["KmsKeyId"]) == (500, {"Fn::GetAtt": [key, "Arn"]})
    assert profile["Roles"][0]["Ref"].startswith("MyRole")
    assert [flat(group)[:7] for group in data["SecurityGroupIds"]] == ["MyGroup"]
    assert stacks.resources("Fleets", "AWS::EC2::SecurityGroupIngress", id="MyGroup").keys()
    assert stacks.resources("Fleets", "AWS::IAM::Role", id="Brought") == {}


def test_auto_scaling_may_use_the_given_key(stacks: Stacks) -> None:
    """Instances with volumes of a customer's key start only if the service-linked role may use the key."""
    # WHEN
    key = stacks.resource("Fleets", "AWS::KMS::Key")
    statements = [each for each in key["KeyPolicy"]["Statement"] if "Condition" in each]

    # THEN
    assert [each["Action"] for each in statements] == [
        ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"],
        "kms:CreateGrant",
    ]
    for each in statements:
        assert each["Condition"]["StringEquals"] == {"kms:CallerAccount": {"Ref": "AWS::AccountId"}}
        assert flat(each["Condition"]["ArnLike"]["aws:PrincipalArn"]) == (
            "arn:AWS::Partition:iam::AWS::AccountId:role/aws-service-role/autoscaling.amazonaws.com/"
            "AWSServiceRoleForAutoScaling*"
        )
    assert statements[1]["Condition"]["Bool"] == {"kms:GrantIsForAWSResource": "true"}


def test_only_the_missing_notifications_are_acknowledged(stacks: Stacks) -> None:
    """cdk-nag finds missing notifications only; its rule EC26, which fails on such groups, reports nothing."""
    names = ("Mixed", "Spot", "OnDemand", "Efa", "WithoutEfa", "Brought", "Bounded", "NarrowFleet")
    assert stacks.accepted == {
        *(("AwsSolutions-AS3", f"Fleets/{name}/Group/ASG") for name in names),
        ("AwsSolutions-IAM5[Resource::*]", "Fleets/Bounded/SessionManager/Resource"),
    }


def test_fleet_says_what_it_can_hold(fleets: Fleets) -> None:
    """A fleet states its limits, which client and workflow read."""
    fleet = fleets.mixed
    assert (fleet.max_gpus, fleet.on_demand_base_gpus, fleet.gpu_step, fleet.largest_weight, fleet.max_nodes) == (
        32,
        4,
        4,
        8,
        8,
    )


def test_leader_is_on_demand_where_there_is_any(fleets: Fleets) -> None:
    """The leader is an On-Demand node in a fleet that has any."""
    markets = [fleet.leader_market for fleet in (fleets.mixed, fleets.on_demand, fleets.spot)]
    assert markets == [contract.ON_DEMAND, contract.ON_DEMAND, contract.SPOT]


def test_fleet_is_named_in_plain_text(fleets: Fleets) -> None:
    """A fleet's id is text and no token, and unique, because user data and ledger keys hold it."""
    ids = [fleet.fleet_id for fleet in (fleets.mixed, fleets.spot, fleets.on_demand)]
    assert len(set(ids)) == 3
    assert all(id.isalnum() for id in ids)


def test_group_is_named_without_a_wildcard(fleets: Fleets) -> None:
    """The fleet's ARN is that of its own group, so that a permission can name it."""
    group = fleets.name["Ref"]
    assert fleets.arn == {"Fn::GetAtt": [group, "AutoScalingGroupARN"]}


def test_warns_of_bandwidth_that_stays_unused(stacks: Stacks) -> None:
    """A type with many network adapters brings a warning if EFA is not used, for it works, but slower."""
    text = (stacks.folder / "Fleets.metadata.json").read_text()
    assert "p4d.24xlarge reach their network bandwidth only with Elastic Fabric Adapters; set 'efa'." in text
    assert text.count("EfaUnused") == 1


@pytest.fixture(scope="module")
def networks() -> dict[NetworkMode, TrainingNetwork]:
    """Build networks for fleets that are never made."""
    return {mode: TrainingNetwork(Stack(), "Network", mode=mode) for mode in (NetworkMode.ISOLATED, NetworkMode.PUBLIC)}


@pytest.mark.parametrize(
    ("mode", "arguments", "message"),
    [
        (NetworkMode.ISOLATED, {"max_gpus": 4}, "'max_gpus' must be at least 8, the largest weight, got 4"),
        (
            NetworkMode.ISOLATED,
            {"instance_types": ["g5.48xlarge", "g5.xlarge"], "efa": True},
            "'efa' must be off, .*, got g5.xlarge, which have none",
        ),
        (
            NetworkMode.ISOLATED,
            {"efa": True, "capacity_plan": CapacityPlan.spot_first()},
            "'capacity_plan' must try one zone at a time, because .* 'efa' needs it, got an attempt in any zone",
        ),
        (
            NetworkMode.PUBLIC,
            {"machine_image": "amazon-linux"},
            "'machine_image' must be a machine image or an AMI's id, ami-…, got 'amazon-linux'",
        ),
        (
            NetworkMode.PUBLIC,
            {"volume_throughput": 2000},
            "'volume_throughput' must be from 125 to 1000 MiB/s, got 2000",
        ),
        (
            NetworkMode.PUBLIC,
            {"efa": True},
            "'vpc_subnets' must be private with 'efa', .*, got public subnets of ",
        ),
    ],
)
def test_fails_when_no_such_fleet_can_work(
    networks: dict[NetworkMode, TrainingNetwork],
    mode: NetworkMode,
    arguments: dict[str, Any],
    message: str,
    request: pytest.FixtureRequest,
) -> None:
    """The error names the argument, its value and a value that would work."""
    # GIVEN
    network = networks[mode]
    fleet = {"instance_types": ["p4d.24xlarge"], "max_gpus": 16, "vpc": network.vpc} | arguments

    # WHEN / THEN
    with pytest.raises(ValueError, match=message):
        GpuFleet(Stack.of(network), request.node.name, **fleet)
