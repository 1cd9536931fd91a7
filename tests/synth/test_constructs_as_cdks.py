"""The constructs as a user of CDK expects them: interfaces, grants, metrics, and a sentence for the first mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Duration, Environment, Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from aws_cdk.assertions import Match, Template

from cdk_horovod import (
    CapacityPlan,
    Engine,
    GpuFleet,
    HorovodTraining,
    NetworkMode,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES
from horovod_node import contract
from support.construct_stacks import synthesise_validated, training_in

pytestmark = pytest.mark.synth


@pytest.fixture
def stack() -> Stack:
    """A stack without an environment."""
    return Stack(App(), "Stack")


@pytest.fixture
def fleet(stack: Stack) -> GpuFleet:
    """A fleet in a network of its own."""
    network = TrainingNetwork(stack, "Network")
    return GpuFleet(stack, "Fleet", vpc=network.vpc, instance_types=["g5.xlarge"], max_gpus=8)


def test_fleet_can_be_let_in(stack: Stack, fleet: GpuFleet) -> None:
    """A security group's `connections` accept a fleet, as they accept an Auto Scaling group."""
    # GIVEN a file system's security group
    vpc = ec2.Vpc(stack, "Files")
    files = ec2.SecurityGroup(stack, "FileSystem", vpc=vpc)

    # WHEN
    files.connections.allow_from(fleet, ec2.Port.tcp(2049), "NFS")

    # THEN
    nodes = stack.resolve(fleet.security_group.security_group_id)
    Template.from_stack(stack).has_resource_properties(
        "AWS::EC2::SecurityGroupIngress", {"FromPort": 2049, "ToPort": 2049, "SourceSecurityGroupId": nodes}
    )


def test_fleet_can_be_granted(stack: Stack, fleet: GpuFleet) -> None:
    """A bucket grants to a fleet; the statement is in the policy of its role."""
    # WHEN
    grant = s3.Bucket(stack, "Bucket").grant_read(fleet)

    # THEN
    assert grant.success
    Template.from_stack(stack).has_resource_properties(
        "AWS::IAM::Policy", {"Roles": [stack.resolve(fleet.role.role_name)], "PolicyDocument": Match.any_value()}
    )


def test_fleet_takes_instance_types(stack: Stack) -> None:
    """A fleet accepts an `ec2.InstanceType` as it accepts the type's name."""
    # GIVEN
    network = TrainingNetwork(stack, "Network")
    types = [ec2.InstanceType("g5.xlarge"), "g5.2xlarge"]

    # WHEN
    fleet = GpuFleet(stack, "Fleet", vpc=network.vpc, instance_types=types, max_gpus=8)

    # THEN
    assert [row.name for row in fleet.capacity.instance_types] == ["g5.xlarge", "g5.2xlarge"]


def test_network_takes_the_value_of_a_mode(stack: Stack) -> None:
    """A network accepts a mode's text, as context files have it, as it accepts the enum's member."""
    assert TrainingNetwork(stack, "Network", mode="public").mode is NetworkMode.PUBLIC


@pytest.mark.parametrize("grant", ["grant_start", "grant_read", "grant_stop"])
def test_grants_are_grants(stack: Stack, grant: str) -> None:
    """Every grant of a training is an `iam.Grant`, which can be asserted and applied before another construct."""
    # GIVEN
    training = training_in(stack)
    role = iam.Role(stack, "Role", assumed_by=iam.AccountRootPrincipal())

    # WHEN
    granted = getattr(training, grant)(role)

    # THEN
    assert isinstance(granted, iam.Grant)
    assert granted.success


def test_grants_take_policies_and_roles_elsewhere(tmp_path: Path) -> None:
    """A managed policy, and a role of another stack, are granted what a role is, without findings of cdk-nag."""

    def build(app: App) -> None:
        # GIVEN
        training = training_in(Stack(app, "Stack"))
        policy = iam.ManagedPolicy(Stack.of(training), "Submitters")

        # WHEN
        far = iam.Role(Stack(app, "Far"), "Person", assumed_by=iam.AccountRootPrincipal())
        granted = [grant(who) for who in (policy, far) for grant in (training.grant_start, training.grant_stop)]

        # THEN
        assert [grant.success for grant in granted] == [True] * 4

    stacks = synthesise_validated(tmp_path, build)
    managed = stacks.resource("Stack", "AWS::IAM::ManagedPolicy", id="Submitters")
    inline = stacks.resource("Far", "AWS::IAM::Policy", id="Person")
    ours, theirs = (
        sorted(json.dumps(statement["Action"]) for statement in policy["PolicyDocument"]["Statement"])
        for policy in (managed, inline)
    )
    assert ours == theirs
    assert any("states:StopExecution" in actions for actions in ours)


def test_metrics_take_cdks_options(stack: Stack) -> None:
    """The metrics take every option of CDK's, and `metric` takes any metric's name."""
    # GIVEN
    training = training_in(stack)

    # WHEN
    mean = training.metric_step_time(statistic="p99", label="slow", color=cloudwatch.Color.RED)
    named = training.metric("StepSeconds", run="digits", period=Duration.minutes(5))

    # THEN
    assert (mean.statistic, mean.label, mean.color) == ("p99", "slow", cloudwatch.Color.RED)
    assert (named.metric_name, named.period.to_minutes()) == ("StepSeconds", 5)
    assert "digits" in (named.dimensions or {}).values()


def test_fleets_fit_into_a_variable(stack: Stack) -> None:
    """More fleets, types and attempts than a variable of Step Functions holds are refused before they are deployed."""
    # GIVEN every type of one GPU model, each in as many zones as a plan may name
    network = TrainingNetwork(stack, "Network")
    types = [name for name, row in GPU_INSTANCE_TYPES.items() if row.gpu.name == "A10G"]
    place: Any = {
        "vpc": network.vpc,
        "instance_types": types,
        "max_gpus": 64,
        "capacity_plan": CapacityPlan.spot_first(),
    }
    fleets = [GpuFleet(stack, f"Fleet{number}", **place) for number in range(40)]

    # WHEN
    with pytest.raises(ValueError, match="'fleets'") as refused:
        HorovodTraining(
            stack,
            "Training",
            storage=TrainingStorage(stack, "Storage"),
            image=TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1"),
            engine=Engine.ec2(*fleets),
        )

    # THEN
    assert re.fullmatch(
        r"'fleets' must be at most 160000 bytes as JSON, .*, got \d{6}; use fewer fleets, attempts or instance types",
        str(refused.value),
    )


def test_first_mistakes_are_explained(stack: Stack, fleet: GpuFleet) -> None:
    """Each of the likely first mistakes is answered by one sentence that names argument, value and cure."""
    # GIVEN
    storage = TrainingStorage(stack, "Storage")
    image = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")
    engine: Any = fleet

    # WHEN / THEN
    with pytest.raises(TypeError) as refused:
        HorovodTraining(stack, "Training", storage=storage, image=image, engine=engine)
    assert str(refused.value) == "'engine' must be an engine, such as Engine.ec2(fleet), got a GpuFleet"
    # AND
    with pytest.raises(ValueError, match="mode") as mode:
        TrainingNetwork(stack, "Other", mode="isolate")
    assert str(mode.value) == (
        "'mode' must be one of NetworkMode.ISOLATED, NetworkMode.PRIVATE_WITH_NAT, NetworkMode.PUBLIC, got 'isolate'"
    )


OUTPUT = json.dumps(
    {
        contract.CONNECTION_STATE_MACHINE: "arn:aws:states:eu-west-1:111122223333:stateMachine:Runs",
        contract.CONNECTION_DATA_BUCKET: "data",
        contract.CONNECTION_MODEL_BUCKET: "models",
        contract.CONNECTION_LEDGER_TABLE: "ledger",
        contract.CONNECTION_LOG_GROUP: "nodes",
        contract.CONNECTION_QUEUE: "TeamTraining",
        contract.CONNECTION_FLEETS: [{contract.CONNECTION_FLEET: "Fleet", contract.CONNECTION_GROUP: "Group"}],
    }
)
KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"


def test_imported_training_grants_what_its_own_app_would() -> None:
    """A grant of an imported training allows the same as a grant of the app that deployed it."""
    # GIVEN the same training, deployed by one app and imported by another
    ours, theirs = (Stack(App(), "Stack", env=Environment(account="111122223333", region="eu-west-1")) for _ in "12")
    training = training_in(ours)
    imported = HorovodTraining.from_stack_output(theirs, "Training", output=OUTPUT, encryption_key_arn=KEY)

    # WHEN each lets somebody start and stop runs
    allowed = []
    for stack, granting in ((ours, training), (theirs, imported)):
        role = iam.Role(stack, "Somebody", assumed_by=iam.AccountRootPrincipal())
        assert granting.grant_start(role).success
        assert granting.grant_stop(role).success
        policies = Template.from_stack(stack).find_resources("AWS::IAM::Policy")
        (policy,) = (policy for name, policy in policies.items() if name.startswith("Somebody"))
        statements = policy["Properties"]["PolicyDocument"]["Statement"]
        actions = [statement["Action"] for statement in statements]
        allowed.append({each for action in actions for each in ([action] if isinstance(action, str) else action)})

    # THEN all but the look at the stack is the same, which the other app may permit by the stack's ARN
    assert allowed[0] - allowed[1] == {"cloudformation:DescribeStacks"}
    assert allowed[1] <= allowed[0]
    # AND on this training's executions and runs
    text = json.dumps(Template.from_stack(theirs).to_json())
    assert "arn:aws:states:eu-west-1:111122223333:execution:Runs:*" in text.replace('"}, "', "")
    assert "runs/TeamTraining/*" in text
    # AND nothing is created but what was asked for
    kinds = {resource["Type"] for resource in Template.from_stack(theirs).to_json()["Resources"].values()}
    assert kinds == {"AWS::IAM::Role", "AWS::IAM::Policy"}


def test_imported_training_is_measured_by_the_same_metrics(stack: Stack) -> None:
    """An alarm of another app sees the state machine and the nodes of an imported training."""
    # WHEN
    imported = HorovodTraining.from_stack_output(stack, "Training", output=OUTPUT)
    failed = stack.resolve(imported.metric_failed().to_metric_config().metric_stat.dimensions[0].value)
    steps = imported.metric("StepSeconds")

    # THEN
    assert failed == "arn:aws:states:eu-west-1:111122223333:stateMachine:Runs"
    assert (steps.dimensions or {}).get(contract.METRIC_TRAINING) == "TeamTraining"


def test_text_that_is_no_training_is_refused(stack: Stack) -> None:
    """A connection that was copied wrongly is refused in a sentence that says what is wanted."""
    with pytest.raises(ValueError, match="output") as refused:
        HorovodTraining.from_stack_output(stack, "Training", output='{"version": 1}')
    assert str(refused.value) == (
        f"'output' must be the value of the stack output with the description '{contract.CONNECTION_DESCRIPTION}', "
        "got '{\"version\": 1}'"
    )
