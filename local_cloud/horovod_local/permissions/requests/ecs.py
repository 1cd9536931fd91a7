"""
Amazon ECS.

Source: Service Authorization Reference, "Actions, resources, and condition keys for Amazon Elastic Container Service".
ListTasks has a container instance as resource only if the request names one; else the resource is `*` and the condition
key `ecs:cluster` limits it. Registering a task definition needs `iam:PassRole` on its roles; so does UpdateService if
it names a task definition, which users report ("not authorized to perform: iam:PassRole" from UpdateService with a task
definition, not with a desired count alone) and the reference does not deny.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from horovod_local.permissions.conditions import Context
from horovod_local.permissions.requests.service_request import (
    PermissionRule,
    RequiredPermission,
    ServiceRequest,
    without_resource,
)

_TASKS: Final = "ecs-tasks.amazonaws.com"


def _cluster(request: ServiceRequest) -> str:
    name = str(request.parameters.get("cluster") or "default")
    return name if name.startswith("arn:") else request.arn("ecs", f"cluster/{name}")


def _in_cluster(request: ServiceRequest, kind: str, name: str) -> str:
    if name.startswith("arn:"):
        return name
    return request.arn("ecs", f"{kind}/{_cluster(request).rpartition('/')[2]}/{name}")


def _keys(request: ServiceRequest) -> Context:
    return {"ecs:cluster": (_cluster(request),)}


def _on_cluster(action: str) -> PermissionRule:
    return lambda request: (RequiredPermission(action=f"ecs:{action}", resource=_cluster(request)),)


def _on_clusters(action: str) -> PermissionRule:
    return lambda request: tuple(
        RequiredPermission(
            action=f"ecs:{action}", resource=name if name.startswith("arn:") else request.arn("ecs", f"cluster/{name}")
        )
        for name in request.parameters.get("clusters") or ("default",)
    )


def _on(action: str, kind: str, parameter: str) -> PermissionRule:
    """Make the rule of an operation on resources of a cluster: one, or a list of them."""

    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        named = request.parameters.get(parameter) or []
        for name in [named] if isinstance(named, str) else named:
            yield RequiredPermission(
                action=f"ecs:{action}", resource=_in_cluster(request, kind, name), context=_keys(request)
            )

    return read


def _list_tasks(request: ServiceRequest) -> Iterable[RequiredPermission]:
    instance = request.parameters.get("containerInstance")
    resource = _in_cluster(request, "container-instance", instance) if instance else "*"
    yield RequiredPermission(action="ecs:ListTasks", resource=resource, context=_keys(request))


def _list_services(request: ServiceRequest) -> Iterable[RequiredPermission]:
    yield RequiredPermission(action="ecs:ListServices", context=_keys(request))


def _with_service(action: str, parameter: str) -> PermissionRule:
    """Make the rule of an operation that changes a service, and perhaps its task definition."""

    def read(request: ServiceRequest) -> Iterable[RequiredPermission]:
        given = request.parameters
        definition = _definition(request, given["taskDefinition"]) if given.get("taskDefinition") else None
        # API Reference, UpdateService: authorization happens after the revision of a family has been resolved.
        named = {"ecs:task-definition": (str(definition.arn),)} if definition is not None else {}
        yield RequiredPermission(
            action=f"ecs:{action}",
            resource=_in_cluster(request, "service", given[parameter]),
            context={**_keys(request), **named},
        )
        if definition is not None:
            roles = (getattr(definition, name, None) for name in ("task_role_arn", "execution_role_arn"))
            yield from _pass(role for role in roles if role)

    return read


def _definition(request: ServiceRequest, name: str) -> Any:
    from moto.ecs.exceptions import TaskDefinitionNotFoundException

    try:
        return request.backend("ecs").describe_task_definition(name)
    except TaskDefinitionNotFoundException:
        # The service itself answers with the error.
        return None


def _register_definition(request: ServiceRequest) -> Iterable[RequiredPermission]:
    given = request.parameters
    yield RequiredPermission(
        action="ecs:RegisterTaskDefinition", resource=request.arn("ecs", f"task-definition/{given['family']}:*")
    )
    yield from _pass(given[name] for name in ("taskRoleArn", "executionRoleArn") if given.get(name))


def _pass(roles: Iterable[str]) -> Iterator[RequiredPermission]:
    for role in sorted(set(roles)):
        yield RequiredPermission(action="iam:PassRole", resource=role, context={"iam:passedtoservice": (_TASKS,)})


RULES: Final[dict[str, PermissionRule]] = {
    **{
        name: _on_cluster(name)
        for name in (
            "DeleteCluster",
            "DeregisterContainerInstance",
            "ListContainerInstances",
            "RegisterContainerInstance",
            "SubmitContainerStateChange",
            "SubmitTaskStateChange",
        )
    },
    "CreateService": _with_service("CreateService", "serviceName"),
    "DeleteService": _on("DeleteService", "service", "service"),
    "DeregisterTaskDefinition": without_resource("ecs:DeregisterTaskDefinition"),
    "DescribeClusters": _on_clusters("DescribeClusters"),
    "DescribeContainerInstances": _on("DescribeContainerInstances", "container-instance", "containerInstances"),
    "DescribeServices": _on("DescribeServices", "service", "services"),
    "DescribeTaskDefinition": without_resource("ecs:DescribeTaskDefinition"),
    "DescribeTasks": _on("DescribeTasks", "task", "tasks"),
    "DiscoverPollEndpoint": without_resource("ecs:DiscoverPollEndpoint"),
    "ListClusters": without_resource("ecs:ListClusters"),
    "ListServices": _list_services,
    "ListTaskDefinitions": without_resource("ecs:ListTaskDefinitions"),
    "ListTasks": _list_tasks,
    "RegisterTaskDefinition": _register_definition,
    "StopTask": _on("StopTask", "task", "task"),
    "UpdateContainerInstancesState": _on("UpdateContainerInstancesState", "container-instance", "containerInstances"),
    "UpdateService": _with_service("UpdateService", "service"),
}
