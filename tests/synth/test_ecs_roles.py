"""`Engine.ecs`: who may do what, on an instance, in a task and in the state machines."""

from __future__ import annotations

import pytest

from horovod_node import contract
from support.construct_stacks import Stacks, flat, synthesise_validated
from support.ecs_stacks import SERVICE, allowed, boot, build_own_and_shared, written

pytestmark = pytest.mark.synth


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Stacks:
    return synthesise_validated(tmp_path_factory.mktemp("ecs-roles"), build_own_and_shared)


def of_the_fleet(stacks: Stacks, role: str) -> str:
    """Give the logical id with which a role of the engine for the first fleet begins."""
    return f"TrainingEcs{written(boot(stacks, 'Own', 'Fleet'), contract.NODE_ENV_FILE)[contract.ENV_FLEET]}{role}"


def test_roles_are_as_small_as_their_holders(stacks: Stacks) -> None:
    """The instance joins its cluster and ends itself, ECS pulls and logs, and the script does what it does on EC2."""
    # GIVEN
    (cluster,) = stacks.resources("Own", "AWS::ECS::Cluster")
    (group,) = stacks.resources("Own", "AWS::AutoScaling::AutoScalingGroup", id="Fleet")
    (table,) = stacks.resources("Own", "AWS::DynamoDB::Table")
    (logs,) = stacks.resources("Own", "AWS::Logs::LogGroup", id="TrainingNodeLogs")
    # WHEN
    instance, execution, task = (
        allowed(stacks, "Own", role)
        for role in ("FleetRole", of_the_fleet(stacks, "ExecutionRole"), of_the_fleet(stacks, "TaskRole"))
    )
    # THEN
    assert instance == {
        "ecs:RegisterContainerInstance": {cluster},
        "ecs:SubmitContainerStateChange": {cluster},
        "ecs:SubmitTaskStateChange": {cluster},
        "ecs:Poll": {f"arn:AWS::Partition:ecs:AWS::Region:AWS::AccountId:container-instance/{cluster}/*"},
        "ecs:DiscoverPollEndpoint": {"*"},
        "autoscaling:TerminateInstanceInAutoScalingGroup": {group},
        "dynamodb:GetItem": {table},
        "dynamodb:PutItem": {table},
    }
    assert {action: resources for action, resources in execution.items() if action.startswith("logs:")} == {
        "logs:CreateLogStream": {logs},
        "logs:PutLogEvents": {logs},
    }
    assert {action for action in execution if not action.startswith("logs:")} == {
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:GetAuthorizationToken",
        "ecr:GetDownloadUrlForLayer",
    }
    assert {action.partition(":")[0] for action in task} == {"dynamodb", "kms", "logs", "s3", "states"}


def test_instance_writes_and_reads_little_of_the_ledger(stacks: Stacks) -> None:
    """With the instance's credentials a script sees no task token, and changes neither its run nor its lease."""
    # WHEN
    keys = {
        statement["Action"]: sorted(statement["Condition"]["ForAllValues:StringLike"]["dynamodb:LeadingKeys"])
        for statement in stacks.statements("Own", role="FleetRole")
        if str(statement["Action"]).startswith("dynamodb:")
    }
    # THEN
    (fleet,) = {each.split("#")[1] for each in keys["dynamodb:PutItem"]}
    lease, _ = contract.lease_key(fleet)
    (runs,) = set(keys["dynamodb:GetItem"]) - {lease}
    assert keys["dynamodb:PutItem"] == [f"{contract.NODES_PREFIX}{fleet}#*"]
    assert runs.startswith(contract.RUN_PREFIX + "OwnTraining")


def test_roles_are_valid_in_their_network_only(stacks: Stacks) -> None:
    """Credentials of the instance, the task and ECS are useless outside of an isolated network."""
    for role in ("FleetRole", of_the_fleet(stacks, "ExecutionRole"), of_the_fleet(stacks, "TaskRole")):
        denied = [each["Sid"] for each in stacks.statements("Own", role=role) if each["Effect"] == "Deny"]
        assert denied == ["OnlyThroughEndpoints"], role


def test_only_tasks_of_this_account_get_the_scripts_role(stacks: Stacks) -> None:
    """The trust of the task's role names account and Region; that of the execution role is the documented one."""
    # WHEN
    task, execution = (
        stacks.resource("Own", "AWS::IAM::Role", id=of_the_fleet(stacks, role))["AssumeRolePolicyDocument"][
            "Statement"
        ][0]
        for role in ("TaskRole", "ExecutionRole")
    )
    # THEN
    assert task["Principal"] == execution["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
    assert {kind: {key: flat(value) for key, value in each.items()} for kind, each in task["Condition"].items()} == {
        "StringEquals": {"aws:SourceAccount": "AWS::AccountId"},
        "ArnLike": {"aws:SourceArn": "arn:AWS::Partition:ecs:AWS::Region:AWS::AccountId:*"},
    }
    assert "Condition" not in execution


def test_workflow_changes_only_its_own_services(stacks: Stacks) -> None:
    """The run chooses task definitions with its fleets' roles, and reads tasks of its cluster; no other layer does."""
    # GIVEN
    (cluster,) = stacks.resources("Own", "AWS::ECS::Cluster")
    services = set(stacks.resources("Own", SERVICE))
    # WHEN
    run = allowed(stacks, "Own", "TrainingStateMachine")
    # THEN
    assert {action: resources for action, resources in run.items() if action.startswith("ecs:")} == {
        "ecs:updateService": services,
        "ecs:describeServices": services,
        "ecs:ListTasks": {"*"},
        "ecs:DescribeTasks": {f"arn:AWS::Partition:ecs:AWS::Region:AWS::AccountId:task/{cluster}/*"},
        "ecs:listContainerInstances": {cluster},
        "ecs:deregisterContainerInstance": {cluster},
    }
    conditions = {
        str(statement["Action"]): statement.get("Condition")
        for statement in stacks.statements("Own", role="TrainingStateMachine")
        if statement["Action"] in ("ecs:ListTasks", "iam:PassRole")
    }
    assert conditions["ecs:ListTasks"] == {"ArnEquals": {"ecs:cluster": {"Fn::GetAtt": [cluster, "Arn"]}}}
    passed = [
        {flat(resource).partition("Ecs")[2] for resource in statement["Resource"]}
        for statement in stacks.statements("Own", role="TrainingStateMachine")
        if statement.get("Condition") == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    ]
    assert all(len(roles) == 2 for roles in passed)
    assert len(passed) == 2
    for machine in ("TrainingCleanUpStateMachine", "TrainingReaperStateMachine"):
        assert not [action for action in allowed(stacks, "Own", machine) if action.startswith("ecs:")]
