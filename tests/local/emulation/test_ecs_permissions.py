"""Permissions of ECS: those of container agents, and those of requests, against the Service Authorization Reference."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.waiting import eventually

ACCOUNT = "123456789012"
ECS = f"arn:aws:ecs:eu-west-1:{ACCOUNT}"
PASSED = f"arn:aws:iam::{ACCOUNT}:role/passed"

Ask = Callable[..., Any]


@pytest.fixture
def ask(cloud: Any) -> Ask:
    """Send a request to ECS as a role with the one statement given."""

    def ask(operation: str, request: dict[str, Any], **statement: Any) -> Any:
        iam, name = cloud.client("iam"), f"role-{uuid.uuid4()}"
        trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
        statements = [{"Effect": "Allow", "Resource": "*", **each} for each in statement.pop("also", ())]
        statements.append({"Effect": "Allow", "Resource": "*", **statement})
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=document(trust))
        iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=document(*statements))
        client = cloud.client("ecs", role_arn=f"arn:aws:iam::{ACCOUNT}:role/{name}")
        return getattr(client, operation)(**request)

    return ask


def document(*statements: dict[str, Any]) -> str:
    """Write a policy."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def error_of(ask: Ask, *arguments: Any, **statement: Any) -> tuple[str, str]:
    """Ask, and return code and message of the error; empty if there is none."""
    try:
        ask(*arguments, **statement)
    except ClientError as error:
        found: Any = error.response["Error"]
        return found["Code"], found.get("Message", "")
    return "", ""


@pytest.mark.parametrize(
    ("operation", "request_", "action", "resource"),
    [
        ("list_container_instances", {"cluster": "c"}, "ListContainerInstances", f"{ECS}:cluster/c"),
        ("list_container_instances", {"cluster": f"{ECS}:cluster/c"}, "ListContainerInstances", f"{ECS}:cluster/c"),
        (
            "deregister_container_instance",
            {"cluster": "c", "containerInstance": "i"},
            "DeregisterContainerInstance",
            f"{ECS}:cluster/c",
        ),
        ("describe_services", {"cluster": "c", "services": ["s"]}, "DescribeServices", f"{ECS}:service/c/s"),
        ("describe_services", {"services": [f"{ECS}:service/c/s"]}, "DescribeServices", f"{ECS}:service/c/s"),
        ("update_service", {"cluster": "c", "service": "s"}, "UpdateService", f"{ECS}:service/c/s"),
        ("describe_tasks", {"cluster": "c", "tasks": ["t"]}, "DescribeTasks", f"{ECS}:task/c/t"),
        ("stop_task", {"cluster": "c", "task": "t"}, "StopTask", f"{ECS}:task/c/t"),
        ("list_tasks", {"cluster": "c", "containerInstance": "i"}, "ListTasks", f"{ECS}:container-instance/c/i"),
        ("register_container_instance", {"cluster": "c"}, "RegisterContainerInstance", f"{ECS}:cluster/c"),
        ("describe_clusters", {"clusters": ["c"]}, "DescribeClusters", f"{ECS}:cluster/c"),
    ],
)
def test_requests_need_their_resource(ask: Ask, operation: str, request_: Any, action: str, resource: str) -> None:
    """A statement on the resource of a request is needed, and another resource's is not enough."""
    # WHEN
    code, message = error_of(ask, operation, request_, Action=f"ecs:{action}", Resource=f"{resource}x")
    allowed, _ = error_of(ask, operation, request_, Action=f"ecs:{action}", Resource=resource)

    # THEN
    assert code == "AccessDeniedException"
    assert f"is not authorized to perform: ecs:{action} on resource: {resource} because" in message
    # ECS itself then answers that there is no such cluster.
    assert allowed not in ("AccessDeniedException", "NotDecidedByTheLocalCloud")


def test_tasks_of_a_cluster_are_limited_by_a_condition(ask: Ask, ecs_fleets: Any) -> None:
    """ListTasks without an instance has no resource: the condition key `ecs:cluster` limits it to a cluster."""
    # GIVEN
    fleet = ecs_fleets.create()
    listing = {"cluster": fleet.cluster}

    # WHEN, THEN
    for named, permitted in ((fleet.cluster, True), ("other", False)):
        condition = {"ArnEquals": {"ecs:cluster": f"{ECS}:cluster/{named}"}}
        if permitted:
            assert ask("list_tasks", listing, Action="ecs:ListTasks", Condition=condition)["taskArns"] == []
        else:
            with pytest.raises(ClientError, match="AccessDenied"):
                ask("list_tasks", listing, Action="ecs:ListTasks", Condition=condition)
    with pytest.raises(ClientError, match="AccessDenied"):
        ask("list_tasks", listing, Action="ecs:ListTasks", Resource=f"{ECS}:container-instance/{fleet.cluster}/*")


def test_roles_must_be_passed(ask: Ask, ecs_fleets: Any) -> None:
    """UpdateService with a task definition, and RegisterTaskDefinition, need iam:PassRole on its roles."""
    # GIVEN
    fleet = ecs_fleets.create()
    role = fleet.ecs.describe_task_definition(taskDefinition=fleet.outputs["Task4"])["taskDefinition"]["taskRoleArn"]
    plain = {"cluster": fleet.cluster, "service": fleet.outputs["Service4"]}
    named = {**plain, "taskDefinition": f"{ecs_fleets.family}-4"}
    update = {"Action": "ecs:UpdateService", "Resource": fleet.outputs["Service4"]}
    to_ecs = {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
    to_ec2 = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}

    # WHEN, THEN
    ask("update_service", plain, **update)
    for wrong in ((), [{"Action": "iam:PassRole", "Condition": to_ec2}]):
        with pytest.raises(ClientError, match=f"not authorized to perform: iam:PassRole on resource: {role}"):
            ask("update_service", named, also=wrong, **update)
    passing = [{"Action": "iam:PassRole", "Resource": role, "Condition": to_ecs}]
    ask("update_service", named, also=passing, **update)

    # AND a condition on the revision sees the one that the family means
    only = {"ArnEquals": {"ecs:task-definition": fleet.outputs["Task4"]}}
    ask("update_service", named, also=passing, Condition=only, **update)
    other = {"ArnEquals": {"ecs:task-definition": fleet.outputs["Task1"]}}
    with pytest.raises(ClientError, match="ecs:UpdateService"):
        ask("update_service", named, also=passing, Condition=other, **update)

    # AND
    registering = {
        "family": "f",
        "containerDefinitions": [{"name": "n", "image": "i", "memory": 9}],
        "executionRoleArn": role,
    }
    with pytest.raises(ClientError, match="iam:PassRole"):
        ask("register_task_definition", registering, Action="ecs:RegisterTaskDefinition")
    ask("register_task_definition", registering, also=passing, Action="ecs:RegisterTaskDefinition")


@pytest.mark.parametrize(
    "missing",
    [
        "RegisterContainerInstance",
        "DiscoverPollEndpoint",
        "Poll",
        "SubmitTaskStateChange",
        "SubmitContainerStateChange",
    ],
)
def test_container_agents_need_each_permission(cloud: Any, ecs_fleets: Any, missing: str) -> None:
    """The agent acts as the instance's role: without one of its permissions, the instance's task does not run."""
    # GIVEN
    template = ecs_fleets.template()
    [policy] = template["Resources"]["InstanceRole"]["Properties"]["Policies"]
    statements = policy["PolicyDocument"]["Statement"]
    refusing = {"Effect": "Deny", "Action": f"ecs:{missing}", "Resource": "*"}
    policy["PolicyDocument"]["Statement"] = [*statements, refusing]
    fleet = ecs_fleets.create(template)

    # WHEN
    fleet.scale(4)
    of_role = f"{fleet.stack}-InstanceRole"
    denied = eventually(
        lambda: [
            each for each in cloud.permissions()["denials"] if each.startswith(of_role) and f"ecs.{missing}:" in each
        ]
    )

    # THEN
    assert len(denied) == 1
    assert [task["lastStatus"] for task in fleet.tasks() if task["lastStatus"] == "RUNNING"] == []


def test_statements_of_container_agents_are_used(cloud: Any, ecs_fleets: Any) -> None:
    """Every statement that the agent needs counts as used once a task has run."""
    # GIVEN
    fleet = ecs_fleets.create()

    # WHEN
    fleet.scale(4)
    fleet.running(1)

    # THEN
    policy = f"{fleet.stack}-InstanceRole"
    statements = [each for each in cloud.permissions()["statements"] if each["policy"].startswith(policy)]
    assert len(statements) == 3
    assert [action for each in statements for action, who in each["actions"].items() if not who] == []
