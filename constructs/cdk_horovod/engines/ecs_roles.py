"""
Who does what on a container instance: the instance itself, the agent of ECS on behalf of a task, and the task.

The container uses the host's network, so a user's script can also get the instance's credentials from instance
metadata. Therefore that role has only what the dead-man's switch and the agent need.
"""

from __future__ import annotations

from aws_cdk import Stack, Token
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_iam as iam
from constructs import Construct

from cdk_horovod.acknowledgements import acknowledge, acknowledge_objects
from cdk_horovod.engines.engine import EngineTarget
from cdk_horovod.engines.gpu_fleets import own_termination
from cdk_horovod.fleet.gpu_fleet import GpuFleet
from cdk_horovod.resources.network_boundary import NetworkBoundary

_TASKS = "ecs-tasks.amazonaws.com"


def task_role(scope: Construct, *, fleet: GpuFleet) -> iam.Role:
    """
    Create the role of a fleet's training containers, to which the workflow's grants add what a script may do.

    Only tasks of this account and Region can assume it (ECS Developer Guide, "Amazon ECS task IAM role", which
    recommends these conditions).
    """
    stack = Stack.of(scope)
    role = iam.Role(
        scope,
        "TaskRole",
        assumed_by=iam.ServicePrincipal(_TASKS).with_conditions(
            {
                "StringEquals": {"aws:SourceAccount": stack.account},
                "ArnLike": {"aws:SourceArn": stack.format_arn(service="ecs", resource="*")},
            }
        ),
        description=f"Training containers of {fleet.node.path}",
    )
    _keep_within(fleet.boundary, role)
    return role


def execution_role(scope: Construct, *, fleet: GpuFleet, target: EngineTarget) -> iam.Role:
    """
    Create the role with which the agent writes a container's log; the image's grant lets it pull, too.

    Its trust has no condition: the guide's page "Amazon ECS task execution IAM role" shows none.
    """
    role = iam.Role(
        scope,
        "ExecutionRole",
        assumed_by=iam.ServicePrincipal(_TASKS),
        description=f"Pulls the image and writes the log of tasks of {fleet.node.path}",
    )
    role.add_to_policy(
        iam.PolicyStatement(
            actions=["logs:CreateLogStream", "logs:PutLogEvents"], resources=[target.node_log_group.log_group_arn]
        )
    )
    _keep_within(fleet.boundary, role)
    return role


def permit_instance(scope: Construct, *, fleet: GpuFleet, cluster: ecs.ICluster, target: EngineTarget) -> None:
    """
    Let the instances of *fleet* join *cluster*, see whether their run is alive, and terminate themselves.

    The agent's calls are those of amazon-ecs-agent 1.105 (`ecs-agent/api/ecs/interface.go`) without telemetry, which
    its configuration disables.
    """
    instances = arn_in_cluster(scope, "container-instance", cluster=cluster)
    # A separate policy, because the role's default policy must exist before the launch template, and so the group.
    policy = iam.Policy(
        scope,
        "InstancePolicy",
        roles=[fleet.role],
        statements=[
            iam.PolicyStatement(
                actions=[
                    "ecs:RegisterContainerInstance",
                    "ecs:SubmitContainerStateChange",
                    "ecs:SubmitTaskStateChange",
                ],
                resources=[cluster.cluster_arn],
            ),
            iam.PolicyStatement(actions=["ecs:Poll"], resources=[instances]),
            iam.PolicyStatement(actions=["ecs:DiscoverPollEndpoint"], resources=["*"]),
            own_termination(fleet),
        ],
    )
    acknowledge(
        policy,
        rule="IAM5[Resource::*]",
        reason="ecs:DiscoverPollEndpoint supports no resource-level permissions (Service Authorization Reference).",
    )
    acknowledge_objects(
        policy,
        owner=scope,
        arn=instances.removesuffix("/*"),
        path="/*",
        reason="ECS makes up the id of a container instance when the instance registers.",
    )
    target.ledger.grant_instance(fleet.role, fleet=fleet.fleet_id, training=target.name)


def arn_in_cluster(scope: Construct, resource: str, *, cluster: ecs.ICluster) -> str:
    """
    Return the ARN of all container instances, or all tasks, of *cluster* in the template of *scope*.

    An acknowledgement needs it as text now. From another stack of the app it has the name of an export, which is made
    here; the reference would have made the same one later.
    """
    name, home = cluster.cluster_name, Stack.of(cluster)
    if home is not Stack.of(scope) and Token.is_unresolved(name):
        name = home.export_value(name)
    return Stack.of(scope).format_arn(service="ecs", resource=resource, resource_name=f"{name}/*")


def _keep_within(boundary: NetworkBoundary | None, role: iam.Role) -> None:
    if boundary is not None:
        role.add_to_policy(boundary.statement())
