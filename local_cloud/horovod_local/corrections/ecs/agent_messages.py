"""
What ECS tells a container agent: the tasks of its instance, and with what credentials they run.

On AWS the agent holds a connection to an endpoint that DiscoverPollEndpoint names, which takes the permission
`ecs:Poll`; here it asks again and again. Source: amazon-ecs-agent (`ecs-agent/acs`: payload messages, inactive
instances), Amazon ECS Developer Guide, "Amazon ECS container instance IAM role".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horovod_local.corrections.ecs import tasks
from horovod_local.permissions import deployed_policies
from horovod_local.permissions.decision import ApplicablePolicies, decide
from horovod_local.permissions.policy import Request
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.permissions.record import RECORD


class InactiveInstanceError(Exception):
    """The container instance is not registered any more."""


@dataclass(frozen=True, kw_only=True)
class TaskMessage:
    """
    One task that its instance shall run or stop.

    Args:
        arn: ARN of the task.
        desired_status: `RUNNING` or `STOPPED`.
        family: Family of its task definition.
        revision: Revision of its task definition.
        service: Name of its service.
        network_mode: Network mode of its task definition.
        role: ARN of the task role; empty if there is none.
        volumes: Paths on the host, by the names of the volumes.
        containers: The container definitions, as in the API.
        container_arns: ARNs of the containers, by name.
        gpus: Ids of the pinned GPUs, by the names of the containers.
    """

    arn: str
    desired_status: str
    family: str
    revision: int
    service: str
    network_mode: str
    role: str
    volumes: Mapping[str, str]
    containers: tuple[Mapping[str, Any], ...]
    container_arns: Mapping[str, str]
    gpus: Mapping[str, tuple[str, ...]]

    @property
    def id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rpartition("/")[2]


def connect(instance_arn: str, *, connected: bool) -> None:
    """Record whether the agent of a container instance is connected to ECS."""
    instance = _instance(instance_arn)
    if instance is not None:
        instance.agent_connected = connected
        instance.was_connected = instance.was_connected or connected


def poll(instance_arn: str, *, access_key: str) -> list[TaskMessage]:
    """
    List the tasks of a container instance that have not stopped.

    Args:
        instance_arn: ARN of the container instance.
        access_key: Id of the access key with which its agent signs.

    Raises:
        PermissionError: If the agent's role does not permit `ecs:Poll`.
        InactiveInstanceError: If the instance is not registered any more.
    """
    _check(instance_arn, access_key)
    instance = _instance(instance_arn)
    if instance is None:
        raise InactiveInstanceError(instance_arn)
    backend = instance._backend
    return [
        _message(task, backend.describe_task_definition(task.task_definition_arn))
        for task in tasks.of_instance(backend, instance)
        if task.last_status != tasks.STOPPED
    ]


def _check(instance_arn: str, access_key: str) -> None:
    _, partition, _, region, account, name = instance_arn.split(":", 5)
    principal = PRINCIPALS.identify(access_key, account=account)
    cluster = name.split("/")[1]
    endpoint = deployed_policies.endpoint(principal, service="ecs-agent")
    decision = decide(
        Request(
            principal=principal,
            action="ecs:Poll",
            resource=instance_arn,
            context={"ecs:cluster": (f"arn:{partition}:ecs:{region}:{account}:cluster/{cluster}",)},
        ),
        ApplicablePolicies(
            identity=deployed_policies.identity_policies(principal), endpoint=endpoint[1] if endpoint else None
        ),
    )
    RECORD.note(principal, "ecs.Poll", decision)
    if not decision.is_allowed:
        raise PermissionError(f"{principal.arn} is not authorized to perform: ecs:Poll {decision.reason}")


def _instance(arn: str) -> Any:
    from moto.ecs.models import ecs_backends

    _, _, _, region, account, name = arn.split(":", 5)
    _, cluster, key = name.split("/")
    return ecs_backends[account][region].container_instances.get(cluster, {}).get(key)


def _message(task: Any, definition: Any) -> TaskMessage:
    return TaskMessage(
        arn=task.task_arn,
        desired_status=task.desired_status,
        family=definition.family,
        revision=definition.revision,
        service=task.group.removeprefix("service:"),
        network_mode=definition.network_mode,
        role=getattr(definition, "task_role_arn", None) or "",
        volumes={volume["name"]: (volume.get("host") or {}).get("sourcePath", "") for volume in definition.volumes},
        containers=tuple(definition.container_definitions),
        container_arns={container.name: container.container_arn for container in task.containers},
        gpus={container.name: tuple(container.gpu_ids) for container in task.containers if container.gpu_ids},
    )
