"""`TrainingNetwork`: three ways to AWS, and none from outside to the nodes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_cdk import App, Environment, Stack

from cdk_horovod import NetworkMode, TrainingNetwork
from horovod_client.doctor.account import ENDPOINT_SERVICES
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = pytest.mark.synth

MODES = [mode.value for mode in NetworkMode]


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    def build(app: App) -> None:
        for mode in NetworkMode:
            TrainingNetwork(Stack(app, mode.value), "Network", mode=mode)
        TrainingNetwork(Stack(app, "standard"), "Network")
        TrainingNetwork(Stack(app, "one"), "Network", max_azs=1)
        TrainingNetwork(Stack(app, "ecs"), "Network", ecs=True)
        TrainingNetwork(
            Stack(app, "bounded"),
            "Network",
            availability_zones=["eu-west-1a", "eu-west-1c"],
            endpoint_azs=1,
            readable_accounts=["210987654321"],
            storage_accounts=["333344445555"],
            gateway_prefix_lists=["pl-6da54004", "pl-6fa54006"],
            session_manager=True,
        )
        known = Environment(account="123456789012", region="eu-west-1")
        TrainingNetwork(Stack(app, "known", env=known), "Network", mode=NetworkMode.PUBLIC, max_azs=2)

    return synthesise_validated(tmp_path_factory.mktemp("network"), build)


def endpoints(stacks: Stacks, stack: str, kind: str) -> set[str]:
    """List the services behind a stack's endpoints of one kind."""
    return {
        flat(endpoint["ServiceName"]).removeprefix("com.amazonaws.AWS::Region.")
        for endpoint in stacks.resources(stack, "AWS::EC2::VPCEndpoint").values()
        if endpoint["VpcEndpointType"] == kind
    }


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("isolated", {"autoscaling", "ecr.api", "ecr.dkr", "logs", "states"}),
        ("private-with-nat", set()),
        ("public", set()),
    ],
)
def test_interface_endpoints_are_those_that_nodes_need(stacks: Stacks, mode: str, expected: set[str]) -> None:
    """Isolated nodes have five interface endpoints, which cost in each zone; others have a way out and none."""
    assert endpoints(stacks, mode, "Interface") == expected


@pytest.mark.parametrize("mode", MODES)
def test_s3_and_dynamodb_are_reached_for_free(stacks: Stacks, mode: str) -> None:
    """Every mode has the gateway endpoints, which cost nothing."""
    assert endpoints(stacks, mode, "Gateway") == {"s3", "dynamodb"}


@pytest.mark.parametrize(
    ("mode", "gateways"),
    [
        ("isolated", set()),
        ("private-with-nat", {"AWS::EC2::NatGateway", "AWS::EC2::EIP", "AWS::EC2::InternetGateway"}),
        ("public", {"AWS::EC2::InternetGateway"}),
    ],
)
def test_way_out_is_that_of_the_mode(stacks: Stacks, mode: str, gateways: set[str]) -> None:
    """Isolated subnets have no way out at all; public ones need no NAT."""
    possible = {"AWS::EC2::NatGateway", "AWS::EC2::EIP", "AWS::EC2::InternetGateway"}
    assert stacks.kinds(mode) & possible == gateways


def test_one_nat_gateway_serves_all_zones(stacks: Stacks) -> None:
    """The mode with NAT has one gateway for all zones, as its documented cost says."""
    assert len(stacks.resources("private-with-nat", "AWS::EC2::NatGateway")) == 1


@pytest.mark.parametrize(("stack", "zones"), [*((mode, 3) for mode in MODES), ("one", 1)])
def test_nodes_have_a_subnet_in_each_zone(stacks: Stacks, stack: str, zones: int) -> None:
    """Without a fixed environment a subnet names its zone by its number, so that nothing is looked up."""
    # WHEN
    subnets = stacks.resources(stack, "AWS::EC2::Subnet", id="NetworkVpcNodes").values()

    # THEN
    assert [subnet["AvailabilityZone"] for subnet in subnets] == [
        {"Fn::Select": [position, {"Fn::GetAZs": ""}]} for position in range(zones)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_nodes_have_public_addresses_in_public_subnets_only(stacks: Stacks, mode: str) -> None:
    """Only the public mode gives nodes an address of the internet."""
    subnets = stacks.resources(mode, "AWS::EC2::Subnet", id="NetworkVpcNodes").values()
    assert {subnet["MapPublicIpOnLaunch"] for subnet in subnets} == {mode == "public"}


@pytest.mark.parametrize("mode", MODES)
def test_traffic_is_recorded(stacks: Stacks, mode: str) -> None:
    """Flow logs of the whole VPC are kept for a month."""
    # WHEN
    flow_log = stacks.resource(mode, "AWS::EC2::FlowLog")
    log_group = stacks.resource(mode, "AWS::Logs::LogGroup")

    # THEN
    assert (flow_log["ResourceType"], flow_log["TrafficType"]) == ("VPC", "ALL")
    assert log_group["RetentionInDays"] == 30


def test_endpoints_take_https_from_the_network_only(stacks: Stacks) -> None:
    """No security group lets anything in from outside."""
    # WHEN
    group = stacks.resource("isolated", "AWS::EC2::SecurityGroup")

    # THEN
    assert [(rule["CidrIp"], rule["FromPort"], rule["ToPort"]) for rule in group["SecurityGroupIngress"]] == [
        ("10.0.0.0/16", 443, 443)
    ]
    assert stacks.resource("isolated", "AWS::EC2::VPC")["CidrBlock"] == "10.0.0.0/16"


def test_isolated_is_the_default(stacks: Stacks) -> None:
    """A network without a mode is isolated: nothing can leave it."""
    assert stacks.kinds("standard") == stacks.kinds("isolated")
    assert endpoints(stacks, "standard", "Interface") == endpoints(stacks, "isolated", "Interface")


def test_zones_of_a_known_region_are_looked_up(stacks: Stacks) -> None:
    """With account and Region given, the CDK CLI is asked which zones there are."""
    # WHEN
    missing = json.loads((stacks.folder / "manifest.json").read_text())["missing"]

    # THEN
    assert [each["provider"] for each in missing] == ["availability-zones"]
    assert len(stacks.resources("known", "AWS::EC2::Subnet")) == 2


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_custom(stacks: Stacks, mode: str) -> None:
    """The network has no Lambda function and no custom resource."""
    assert {kind for kind in stacks.kinds(mode) if "Lambda" in kind or "Custom" in kind} == set()


def test_needs_no_acknowledgement(stacks: Stacks) -> None:
    """cdk-nag finds nothing, and CDK accepts the fixed zones that a user named (cfn-lint's W3010)."""
    assert {rule for rule, _ in stacks.accepted} == {"W3010"}


def policies(stacks: Stacks, stack: str) -> dict[str, Any]:
    """Find the policy of each endpoint, by its service; None for AWS's own, which allows everything."""
    return {
        flat(endpoint["ServiceName"]).rpartition("Region.")[2]: endpoint.get("PolicyDocument")
        for endpoint in stacks.resources(stack, "AWS::EC2::VPCEndpoint").values()
    }


def test_isolated_endpoints_carry_only_what_the_account_does_with_its_own(stacks: Stacks) -> None:
    """Isolated endpoints refuse foreign credentials and buckets, but for ECR's image layers."""
    # GIVEN
    account = {"Ref": "AWS::AccountId"}
    own = {"StringEquals": {"aws:PrincipalAccount": account, "aws:ResourceAccount": account}}
    # WHEN
    statements = {service: policy["Statement"] for service, policy in policies(stacks, "isolated").items()}
    # THEN
    layers = statements.pop("s3")
    assert [(each["Action"], each.get("Condition")) for each in layers] == [("*", own), ("s3:GetObject", None)]
    assert flat(layers[1]["Resource"]) == "arn:AWS::Partition:s3:::prod-AWS::Region-starport-layer-bucket/*"
    assert statements.keys() == {"dynamodb", "ecr.api", "ecr.dkr", "logs", "states", "autoscaling"}
    for only in statements.values():
        assert [(each["Effect"], each["Action"], each["Condition"]) for each in only] == [("Allow", "*", own)]


def test_endpoints_with_another_way_out_carry_everything(stacks: Stacks) -> None:
    """Where scripts reach the internet, endpoints carry everything, public buckets included."""
    assert set(policies(stacks, "public").values()) == {None}
    assert set(policies(stacks, "private-with-nat").values()) == {None}


def test_other_accounts_can_be_read_only(stacks: Stacks) -> None:
    """Nodes can read data and images of named accounts, and write nothing there."""
    for policy in policies(stacks, "bounded").values():
        (foreign,) = [each for each in policy["Statement"] if "210987654321" in str(each)]
        assert [action for action in foreign["Action"] if not action.split(":")[1].startswith(("Get", "List"))] == [
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
        ]
        assert foreign["Condition"]["StringEquals"]["aws:PrincipalAccount"] == {"Ref": "AWS::AccountId"}


def test_other_accounts_can_keep_models(stacks: Stacks) -> None:
    """Nodes can do with the buckets of a storage account what they do with a model bucket, and nothing else there."""
    for policy in policies(stacks, "bounded").values():
        (foreign,) = [each for each in policy["Statement"] if "333344445555" in str(each)]
        assert {action.removeprefix("s3:") for action in foreign["Action"]} == {
            *("GetObject", "ListBucket", "PutObject", "AbortMultipartUpload", "ListMultipartUploadParts"),
            "DeleteObject",
        }
        assert foreign["Condition"]["StringEquals"]["aws:PrincipalAccount"] == {"Ref": "AWS::AccountId"}


def test_zones_can_be_named(stacks: Stacks) -> None:
    """Subnets are in the zones that were named, and endpoints may be in fewer of them."""
    # WHEN
    subnets = stacks.resources("bounded", "AWS::EC2::Subnet", id="NetworkVpcNodes")
    placed = {
        len(endpoint["SubnetIds"])
        for endpoint in stacks.resources("bounded", "AWS::EC2::VPCEndpoint").values()
        if endpoint["VpcEndpointType"] == "Interface"
    }
    # THEN
    assert [subnet["AvailabilityZone"] for subnet in subnets.values()] == ["eu-west-1a", "eu-west-1c"]
    assert placed == {1}


def test_ecs_has_its_endpoints(stacks: Stacks) -> None:
    """Only a network that was asked for ECS has the endpoints of its API and of its agents."""
    assert endpoints(stacks, "ecs", "Interface") - endpoints(stacks, "isolated", "Interface") == {"ecs", "ecs-agent"}
    found = policies(stacks, "ecs")
    assert found["ecs"] == found["logs"]
    # AWS documents no policy for that of the agents.
    assert found["ecs-agent"] is None
    # AND the packages of the instance's system can be read
    packages = [each for each in found["s3"]["Statement"] if "al2023-repos" in flat(each["Resource"])]
    assert [(each["Action"], flat(each["Resource"])) for each in packages] == [
        ("s3:GetObject", "arn:AWS::Partition:s3:::al2023-repos-AWS::Region-de612dc2/*")
    ]


def test_session_manager_has_its_endpoints(stacks: Stacks) -> None:
    """Only a network that was asked for sessions has the two endpoints of Session Manager."""
    more = endpoints(stacks, "bounded", "Interface") - endpoints(stacks, "isolated", "Interface")
    assert more == {"ssm", "ssmmessages"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_azs": 2, "endpoint_azs": 3}, "'endpoint_azs' must be from 1 to 2, the number of zones, got 3"),
        ({"availability_zones": ["a", "a"]}, "'availability_zones' must name each zone once, got a, a"),
        ({"readable_accounts": ["12"]}, "'readable_accounts' must be ids of AWS accounts, of 12 digits, got '12'"),
        ({"storage_accounts": ["12"]}, "'storage_accounts' must be ids of AWS accounts, of 12 digits, got '12'"),
        ({"gateway_prefix_lists": ["s3"]}, "'gateway_prefix_lists' must be ids of prefix lists, pl-…, got 's3'"),
    ],
)
def test_fails_when_no_such_network_can_be(arguments: dict[str, Any], sentence: str) -> None:
    """The error names the argument, its value and a value that would work."""
    with pytest.raises(ValueError, match="must") as refused:
        TrainingNetwork(Stack(), "Network", **arguments)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("max_azs", [0, 7])
def test_fails_when_there_are_no_such_zones(max_azs: int) -> None:
    """More zones than any Region has are refused."""
    with pytest.raises(ValueError, match=f"'max_azs' must be from 1 to 6, got {max_azs}"):
        TrainingNetwork(Stack(), "Network", max_azs=max_azs)


def test_doctor_asks_for_the_endpoints_that_there_are(stacks: Stacks) -> None:
    """The doctor looks in a Region for the endpoints that an isolated network needs."""
    assert endpoints(stacks, "isolated", "Interface") == set(ENDPOINT_SERVICES)
