"""`HorovodTraining`: permissions that name what they allow, and times that fit together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
from aws_cdk import App, Duration, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3

from cdk_horovod import (
    Engine,
    GpuFleet,
    HorovodTraining,
    IEngine,
    RunTimeouts,
    TrainingImage,
    TrainingNetwork,
    TrainingStorage,
)
from cdk_horovod.asl.resolved import by_layer
from cdk_horovod.termination.reaper_definition import HOLD
from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated

pytestmark = [pytest.mark.synth, pytest.mark.every_group]

IMAGE = TrainingImage.from_uri("123456789012.dkr.ecr.eu-west-1.amazonaws.com/training:1")


ENGINES: dict[str, Callable[[GpuFleet], IEngine]] = {"ec2": Engine.ec2, "ecs": Engine.ecs}

UNNAMED_RESOURCES = ("xray", "logs", "ecr")
LAUNCHING = ("ec2:CreateTags", "ec2:RunInstances", "iam:PassRole")
"""Bound by conditions."""
UNNAMED_ACTIONS = (
    "autoscaling:DescribeAutoScalingGroups",
    "autoscaling:describeAutoScalingGroups",
    "autoscaling:describeScalingActivities",
    "cloudwatch:PutMetricData",
    "ecs:DiscoverPollEndpoint",
    "ecs:ListTasks",
    "ec2:DescribeSpotPriceHistory",
    "ec2:describeSpotPriceHistory",
    "pricing:GetProducts",
    "pricing:getProducts",
)
"""Calls that know no resources (Service Authorization Reference); a condition names the cluster of listed tasks."""


def add_training(
    stack: Stack, id: str = "Training", *, fleet: GpuFleet | None = None, engine: str = "ec2", **options: Any
) -> HorovodTraining:
    """Add a training with everything that it needs to *stack*."""
    if fleet is None:
        network = TrainingNetwork(stack, f"{id}Network")
        fleet = GpuFleet(
            stack,
            f"{id}Fleet",
            vpc=network.vpc,
            vpc_subnets=network.subnets,
            instance_types=["g5.xlarge"],
            max_gpus=8,
            on_demand_base_gpus=1,
        )
    storage = TrainingStorage(stack, f"{id}Storage")
    return HorovodTraining(stack, id, storage=storage, image=IMAGE, engine=ENGINES[engine](fleet), **options)


def build(app: App, *, engine: str) -> None:
    """Build one stack with a training, data of its user's own, and people with every grant."""
    stack = Stack(app, "Team")
    data = s3.Bucket.from_bucket_name(stack, "Lake", "data-lake")
    training = add_training(stack, engine=engine, data_buckets=[data], max_cost_usd=500)
    for name, grant in (
        ("Starter", training.grant_start),
        ("Reader", training.grant_read),
        ("Stopper", training.grant_stop),
    ):
        grant(iam.Role(stack, name, assumed_by=iam.AccountPrincipal("123456789012")))


@pytest.fixture(scope="module")
def stacks(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("training"), partial(build, engine=engine))


def node_role(stacks: Stacks) -> str:
    """Give the logical id of the role that a script has: on ECS it is the task's, else the fleet's."""
    roles = stacks.resources("Team", "AWS::IAM::Role")
    return next((role for role in roles if "TaskRole" in role), next(role for role in roles if "FleetRole" in role))


def allowed(stacks: Stacks, role: str) -> dict[str, list[str]]:
    """List what *role* may do: action to resources."""
    found: dict[str, list[str]] = {}
    for statement in stacks.statements("Team", role=role):
        actions, resources = statement["Action"], statement["Resource"]
        for action in [actions] if isinstance(actions, str) else actions:
            found.setdefault(action, []).extend(
                flat(resource) for resource in (resources if isinstance(resources, list) else [resources])
            )
    return found


def test_settings_of_a_fleet_reach_its_nodes(stacks: Stacks) -> None:
    """Nodes with Elastic Fabric Adapters find the settings for them in their environment, others none."""
    # GIVEN
    stack = Stack()
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(
        stack,
        "Fleet",
        vpc=network.vpc,
        vpc_subnets=ec2.SubnetSelection(subnets=network.vpc.isolated_subnets[:1]),
        instance_types=["p4d.24xlarge"],
        max_gpus=16,
        efa=True,
    )

    # WHEN
    add_training(stack, fleet=fleet)

    # THEN
    booted = flat(stack.resolve(fleet.user_data.render())).partition("NODE_ENV\n")[0]
    assert [line for line in booted.splitlines() if line.startswith("FI_")] == [
        "FI_PROVIDER=efa",
        "FI_EFA_USE_HUGE_PAGE=0",
    ]
    plain = flat(stacks.resource("Team", "AWS::EC2::LaunchTemplate")["LaunchTemplateData"]["UserData"])
    assert "FI_PROVIDER" not in plain


def test_no_permission_is_a_wildcard(stacks: Stacks) -> None:
    """No permission covers all of a service, and only calls without resources name `*`."""
    for role in stacks.resources("Team", "AWS::IAM::Role"):
        for action, resources in allowed(stacks, role).items():
            assert not action.endswith(":*"), (role, action)
            if "*" in resources and action not in LAUNCHING:
                assert action.split(":")[0] in UNNAMED_RESOURCES or action in UNNAMED_ACTIONS, (role, action)


def test_nodes_may_answer_only_their_own_workflow(stacks: Stacks) -> None:
    """A node may answer one state machine, write one log group and end instances of its own group only, if any."""
    node = allowed(stacks, node_role(stacks))
    (group,) = stacks.resources("Team", "AWS::AutoScaling::AutoScalingGroup")
    assert [name[:20] for name in node["states:SendTaskSuccess"]] == ["TrainingStateMachine"]
    assert [name[:16] for name in node["logs:PutLogEvents"]] == ["TrainingNodeLogs"]
    scaling = {action for action in node if action.startswith(("autoscaling:", "ec2:", "cloudformation:", "iam:"))}
    ending = "autoscaling:TerminateInstanceInAutoScalingGroup"
    assert scaling == ({ending} if "FleetRole" in node_role(stacks) else set())
    assert allowed(stacks, "TrainingFleetRole")[ending] == [group]
    assert node["s3:GetObject"] != []
    assert any(resource.startswith("arn:") and resource.endswith("data-lake/*") for resource in node["s3:GetObject"])


def test_workflow_scales_only_its_own_fleet(stacks: Stacks) -> None:
    """Permissions to scale name one group, and only the run's machine may change what it launches."""
    # GIVEN
    (group,) = stacks.resources("Team", "AWS::AutoScaling::AutoScalingGroup")
    ending = {"autoscaling:setDesiredCapacity", "autoscaling:terminateInstanceInAutoScalingGroup"}
    starting = {
        "autoscaling:createOrUpdateTags",
        "autoscaling:suspendProcesses",
        "autoscaling:updateAutoScalingGroup",
    }
    for machine, actions in {
        "TrainingStateMachine": ending | starting,
        "TrainingCleanUpStateMachine": ending,
        "TrainingReaperStateMachine": ending,
    }.items():
        # WHEN
        workflow = allowed(stacks, machine)
        scaling = {action for action in workflow if action.startswith("autoscaling:") and "describe" not in action}
        launching = {action for action in workflow if action.startswith(("ec2:", "iam:"))}
        # THEN
        assert scaling == actions
        for action in scaling:
            assert set(workflow[action]) == {group}, (machine, action)
        assert launching == ({"ec2:describeSpotPriceHistory", *LAUNCHING} if starting <= actions else set())


def test_workflow_may_launch_only_what_its_fleet_launches(stacks: Stacks) -> None:
    """The workflow has the launch permissions that Auto Scaling checks, for its fleet's template only."""
    # WHEN
    statements = [
        (statement["Action"], statement["Resource"], statement.get("Condition"))
        for statement in stacks.statements("Team", role="TrainingStateMachine")
        if statement["Action"] in LAUNCHING and "ecs-tasks" not in str(statement.get("Condition"))
    ]
    # THEN every launch takes an instance, and an instance of this template only
    (template,) = stacks.resources("Team", "AWS::EC2::LaunchTemplate")
    (role,) = stacks.resources("Team", "AWS::IAM::Role", id="TrainingFleet")
    instances, others, tags, passing = statements
    assert [action for action, _, _ in statements] == [
        "ec2:RunInstances",
        "ec2:RunInstances",
        "ec2:CreateTags",
        "iam:PassRole",
    ]
    assert flat(instances[1]).endswith(":instance/*")
    assert flat(instances[2]["ArnEquals"]["ec2:LaunchTemplate"]).endswith(f":launch-template/{template}")
    assert not any(flat(resource).endswith((":instance/*", "*:*")) for resource in others[1])
    assert tags[1:] == ("*", {"StringEquals": {"ec2:CreateAction": "RunInstances"}})
    assert (flat(passing[1]), passing[2]) == (role, {"StringLike": {"iam:PassedToService": "ec2.amazonaws.com*"}})


def test_metrics_go_to_one_namespace_only(stacks: Stacks) -> None:
    """The permission to put metrics names the namespace, because CloudWatch has no resource for them."""
    (statement,) = [
        statement
        for statement in stacks.statements("Team", role="TrainingReaperStateMachine")
        if statement["Action"] == "cloudwatch:PutMetricData"
    ]
    assert statement["Condition"] == {"StringEquals": {"cloudwatch:namespace": "CdkHorovod"}}


def test_clean_up_starts_for_every_end_without_success(stacks: Stacks) -> None:
    """The rule matches this training's executions only, and all ends that a Catch may miss."""
    # WHEN
    rules = stacks.resources("Team", "AWS::Events::Rule")
    patterns = [rule["EventPattern"] for rule in rules.values() if "EventPattern" in rule]
    # THEN
    assert [flat(pattern["detail"]["stateMachineArn"][0])[:20] for pattern in patterns] == ["TrainingStateMachine"]
    assert patterns[0]["detail"]["status"] == ["ABORTED", "FAILED", "TIMED_OUT"]
    assert (patterns[0]["source"], patterns[0]["detail-type"]) == (
        ["aws.states"],
        ["Step Functions Execution Status Change"],
    )


def test_reaper_looks_every_five_minutes(stacks: Stacks) -> None:
    """The reaper's rule is enabled from the start, and its workflow is an Express one, which is cheap at rest."""
    rules = stacks.resources("Team", "AWS::Events::Rule").values()
    schedules = [(rule["ScheduleExpression"], rule["State"]) for rule in rules if "ScheduleExpression" in rule]
    assert schedules == [("rate(5 minutes)", "ENABLED")]
    machines = stacks.resources("Team", "AWS::StepFunctions::StateMachine")
    express = [name for name, machine in machines.items() if machine.get("StateMachineType") == "EXPRESS"]
    assert [name[:26] for name in express] == ["TrainingReaperStateMachine"]


def test_reaper_ends_before_its_hold_on_a_fleet_does(template: Mapping[str, Any]) -> None:
    """The reaper ends before its lease expires, so that it never acts on a fleet that another run holds."""
    definition = by_layer(template)["reaper"]
    assert definition["TimeoutSeconds"] < HOLD.to_seconds()


def test_grants_are_as_wide_as_their_names(stacks: Stacks) -> None:
    """A grant to read does not allow to start, and a grant to start does not allow to stop."""
    starter, reader, stopper = (allowed(stacks, role) for role in ("Starter", "Reader", "Stopper"))
    assert {"states:StartExecution", "s3:PutObject", "cloudformation:DescribeStacks"} <= set(starter)
    assert "states:StopExecution" not in starter
    assert {"states:DescribeExecution", "dynamodb:BatchGetItem", "dynamodb:Query", "s3:GetObject"} <= set(reader)
    for action in ("logs:DescribeLogStreams", "logs:GetLogEvents"):
        assert [name[:16] for name in reader[action]] == ["TrainingNodeLogs"]
    assert [name[:20] for name in reader["states:ListExecutions"]] == ["TrainingStateMachine"]
    assert [action for action, resources in reader.items() if "*" in resources] == [
        "autoscaling:DescribeAutoScalingGroups",
        "ec2:DescribeSpotPriceHistory",
        "pricing:GetProducts",
    ]
    assert [action for action in reader if action.endswith(("StartExecution", "PutObject", "PutItem"))] == []
    assert set(stopper) == {"states:StopExecution"}
    assert {"dynamodb:BatchGetItem", "dynamodb:Query"} <= set(reader)


def test_clients_find_the_connection_by_its_description(stacks: Stacks) -> None:
    """One output tells a client everything, whatever the construct's id."""
    # WHEN
    outputs = stacks.templates["Team"].to_json()["Outputs"]
    (output,) = [each for each in outputs.values() if each.get("Description") == contract.CONNECTION_DESCRIPTION]
    connection = json.loads(flat(output["Value"]))
    # THEN it has every key of the contract
    of_a_fleet = {
        contract.CONNECTION_FLEET,
        contract.CONNECTION_MAX_GPUS,
        contract.CONNECTION_GPU_STEP,
        contract.CONNECTION_GROUP,
        contract.CONNECTION_ENGINE,
        contract.CONNECTION_TYPES,
    }
    assert {frozenset(fleet) for fleet in connection[contract.CONNECTION_FLEETS]} == {frozenset(of_a_fleet)}
    named = {value for name, value in vars(contract).items() if name.startswith("CONNECTION_")}
    # Nodes of Auto Scaling groups may come and go, which needs no word, and are not those of jobs.
    others = {contract.CONNECTION_DESCRIPTION, contract.CONNECTION_ELASTIC, contract.CONNECTION_JOB_PREFIX}
    assert set(connection) == named - of_a_fleet - others


def test_execution_data_stays_out_of_the_log(stacks: Stacks) -> None:
    """The log holds no execution data, because task tokens are credentials."""
    machines = stacks.resources("Team", "AWS::StepFunctions::StateMachine").values()
    assert len(machines) == 3
    for machine in machines:
        assert machine["LoggingConfiguration"]["IncludeExecutionData"] is False
        assert machine["LoggingConfiguration"]["Level"] == "ALL"
        assert machine["TracingConfiguration"] == {"Enabled": True}


def test_group_has_no_desired_capacity(stacks: Stacks) -> None:
    """The group has no desired capacity, because a deployment during a run must not resize it."""
    group = stacks.resource("Team", "AWS::AutoScaling::AutoScalingGroup")
    assert "DesiredCapacity" not in group
    assert (group["MinSize"], group["MaxSize"]) == ("0", "8")


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        (
            {"heartbeat": Duration.hours(1), "max_runtime": Duration.minutes(30)},
            "'heartbeat' must be shorter than 'max_runtime' (30 minutes), got 1 hour",
        ),
        (
            {"launch_timeout": Duration.minutes(30)},
            "'launch_timeout' must be shorter than 'start_timeout' (30 minutes), got 30 minutes",
        ),
        (
            {"heartbeat": Duration.minutes(5), "save_timeout": Duration.minutes(5)},
            "'heartbeat' must be shorter than 'save_timeout' (5 minutes), got 5 minutes",
        ),
        (
            {"poll_interval": Duration.millis(500)},
            "'poll_interval' must be whole seconds and at least 1, got 500 millis",
        ),
        (
            {"stall_timeout": Duration.seconds(0)},
            "'stall_timeout' must be whole seconds and at least 1, got 0 seconds",
        ),
        (
            {"lease_timeout": Duration.seconds(60)},
            "'heartbeat' must be shorter than 'lease_timeout' (1 minute), got 1 minute",
        ),
    ],
)
def test_fails_when_times_contradict(times: dict[str, Duration], sentence: str) -> None:
    """Times that Step Functions would refuse at deployment are refused at construction, in one sentence."""
    with pytest.raises(ValueError, match="must be") as refused:
        RunTimeouts(**times)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"reaper_interval": Duration.seconds(90)},
            "'reaper_interval' must be whole minutes and at least 1, got 1 minute 30 seconds",
        ),
        ({"max_cost_usd": 0}, "'max_cost_usd' must be more than 0 USD, got 0"),
        ({"on_demand_prices": {"g5.xlarge": -1}}, "'g5.xlarge' must be more than 0 USD, got -1"),
    ],
)
def test_fails_when_an_argument_cannot_be(options: dict[str, Any], sentence: str) -> None:
    """A senseless argument is refused at construction, in one sentence."""
    stack = Stack(App(), "Stack")
    with pytest.raises(ValueError, match="must be") as refused:
        add_training(stack, **options)
    assert str(refused.value) == sentence


@pytest.mark.parametrize("make", ENGINES.values())
def test_fails_without_a_fleet(make: Callable[..., IEngine]) -> None:
    """An engine without a fleet is refused."""
    with pytest.raises(ValueError, match="at least one") as refused:
        make()
    assert str(refused.value) == "'fleets' must be at least one, got none"


@pytest.mark.parametrize("make", ENGINES.values())
def test_fails_when_a_fleet_serves_two_trainings(make: Callable[[GpuFleet], IEngine]) -> None:
    """A fleet serves one training only, because its user data names one ledger."""
    # GIVEN a fleet with a training
    stack = Stack(App(), "Stack")
    network = TrainingNetwork(stack, "Network")
    fleet = GpuFleet(stack, "Fleet", vpc=network.vpc, instance_types=["g5.xlarge"], max_gpus=8)
    storage = TrainingStorage(stack, "Storage")
    HorovodTraining(stack, "One", storage=storage, image=IMAGE, engine=make(fleet))
    # WHEN another engine of the same fleet is bound
    with pytest.raises(ValueError, match="serves") as refused:
        HorovodTraining(stack, "Two", storage=storage, image=IMAGE, engine=make(fleet))
    # THEN
    assert str(refused.value) == "'fleet' must serve one training, got Stack/Fleet, which already serves Stack/One"
