"""
Container instances: registration by their agents, filters, and deregistration.

Sources: Amazon ECS Developer Guide, "Amazon ECS task placement constraints" (attributes) and "Deregister an Amazon ECS
container instance"; Amazon ECS API Reference, RegisterContainerInstance, ListContainerInstances,
DeregisterContainerInstance and `Attribute`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from horovod_local.corrections.ecs import placement, tasks
from horovod_local.corrections.ecs.cluster_query import ATTRIBUTE, QueryError, compile_query
from horovod_local.corrections.ecs.pages import page
from horovod_local.corrections.registry import correction

ACTIVE: Final = "ACTIVE"
DRAINING: Final = "DRAINING"
INACTIVE: Final = "INACTIVE"
MOST_CUSTOM_ATTRIBUTES: Final = 10
"""Custom attributes of a resource (Amazon ECS Developer Guide, "Service quotas")."""
FILTERS: Final = ("agentConnected", "ec2InstanceId")
"""Subjects of filters, beside attributes, that are supported."""

_BUILT_IN: Final = ("ecs.", "com.amazonaws.")
_NAME: Final = re.compile(r"[A-Za-z0-9_./\\-]{1,128}")
_VALUE: Final = re.compile(r"(?! )[A-Za-z0-9_.@/\\: -]{1,128}(?<! )")


@correction(
    moto="registers every instance with 4 CPUs and 7482 MiB, and drops its attributes and GPUs",
    aws="registers the resources, devices and attributes that the agent names, and adds attributes of the instance",
)
def container_instances_have_what_they_register() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def register_container_instance(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        custom = {item["name"]: item.get("value", "") for item in self._get_param("attributes") or ()}
        _refuse_bad_attributes(custom)
        identity = json.loads(self._get_param("instanceIdentityDocument"))
        instance = backend.register_container_instance(cluster.name, identity["instanceId"])
        instance.attributes |= {**_of_machine(backend, identity["instanceId"]), **custom}
        devices = [device["id"] for device in self._get_param("platformDevices") or () if device["type"] == "GPU"]
        instance.registered_resources = [
            *({**_EMPTY, **resource} for resource in self._get_param("totalResources") or ()),
            *([{**_EMPTY, "name": "GPU", "type": "STRINGSET", "stringSetValue": devices}] if devices else []),
        ]
        instance.version_info = self._get_param("versionInfo") or {}
        # The agent is connected as soon as it polls.
        instance.agent_connected, instance.was_connected = False, False
        recount(backend, cluster)
        return ActionResult({"containerInstance": instance})

    EC2ContainerServiceResponse.register_container_instance = register_container_instance


@correction(
    moto="answers 500 for the container instances of a cluster that never had one",
    aws="answers that they are missing",
)
def empty_clusters_have_no_container_instances() -> None:
    from moto.ecs.models import EC2ContainerServiceBackend

    initialise = EC2ContainerServiceBackend.__init__

    def with_room(self: Any, *args: Any, **kwargs: Any) -> None:
        initialise(self, *args, **kwargs)
        self.container_instances = defaultdict(dict)

    EC2ContainerServiceBackend.__init__ = with_room


@correction(
    moto="ignores the filter of ListContainerInstances",
    aws="evaluates it in the cluster query language",
)
def container_instances_are_filtered() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def list_container_instances(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        status, expression = self._get_param("status"), self._get_param("filter")
        try:
            test = compile_query(expression, subjects=FILTERS) if expression else None
        except QueryError as error:
            raise tasks.invalid(str(error)) from error
        arns = sorted(
            instance.container_instance_arn
            for instance in of_cluster(backend, cluster.name)
            if status in (None, instance.status) and (test is None or test(_subjects(instance)))
        )
        token, limit = self._get_param("nextToken"), self._get_param("maxResults")
        return ActionResult(page("containerInstanceArns", arns, token, limit))

    EC2ContainerServiceResponse.list_container_instances = list_container_instances


@correction(
    moto="answers the deregistration of an unknown container instance with 500, and leaves its tasks as they are",
    aws="names the error; with force, the tasks count as stopped while their containers run on unobserved",
)
def deregistered_container_instances_leave_orphans() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def deregister_container_instance(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        key = self._get_param("containerInstance").rpartition("/")[2]
        instance = backend.container_instances.get(cluster.name, {}).get(key)
        if instance is None:
            raise tasks.invalid("The referenced container instance was not found.")
        if _running(backend, instance) and not self._get_param("force"):
            raise tasks.invalid("Found running tasks on the instance.")
        remove(backend, instance, reason="Container instance deregistration forced by user", code=tasks.BY_USER)
        recount(backend, cluster)
        return ActionResult({"containerInstance": instance})

    EC2ContainerServiceResponse.deregister_container_instance = deregister_container_instance


def of_cluster(backend: Any, cluster: str) -> list[Any]:
    """List the container instances of a cluster in the order of their registration."""
    return list(backend.container_instances.get(cluster, {}).values())


def remove(backend: Any, instance: Any, *, reason: str, code: str) -> None:
    """Remove a container instance from its cluster; its tasks count as stopped."""
    for task in _running(backend, instance):
        tasks.end(task, reason=reason, code=code)
    backend.container_instances[instance.cluster_name].pop(instance.id, None)
    instance.status, instance.agent_connected = INACTIVE, False


def recount(backend: Any, cluster: Any) -> None:
    """Derive remaining resources, and all counts of tasks and instances of a cluster, from its tasks."""
    instances = of_cluster(backend, cluster.name)
    cluster.registered_container_instances_count = len(instances)
    placed = {instance.container_instance_arn: tasks.of_instance(backend, instance) for instance in instances}
    for instance in instances:
        mine = placed[instance.container_instance_arn]
        instance.remaining_resources = placement.remaining(instance, mine)
        instance.running_tasks_count, instance.pending_tasks_count = count(mine)
    everything = [task for mine in placed.values() for task in mine]
    cluster.running_tasks_count, cluster.pending_tasks_count = count(everything)
    services = [service for service in list(backend.services.values()) if service.cluster_name == cluster.name]
    cluster.active_services_count = sum(service.status == ACTIVE for service in services)


def count(listed: Sequence[Any]) -> tuple[int, int]:
    """Count the running and the pending tasks."""
    statuses = [task.last_status for task in listed]
    return statuses.count(tasks.RUNNING), statuses.count(tasks.PENDING)


def _running(backend: Any, instance: Any) -> list[Any]:
    return [task for task in tasks.of_instance(backend, instance) if task.last_status != placement.STOPPED]


def _refuse_bad_attributes(custom: Mapping[str, str]) -> None:
    own = {name: value for name, value in custom.items() if not name.startswith(_BUILT_IN)}
    if len(own) > MOST_CUSTOM_ATTRIBUTES:
        raise tasks.invalid(f"at most {MOST_CUSTOM_ATTRIBUTES} custom attributes are allowed, got {len(own)}")
    for name, value in own.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise tasks.invalid(f"the attribute {name} with the value '{value}' has characters that are not allowed")


def _of_machine(backend: Any, instance_id: str) -> dict[str, str]:
    """Return the attributes that ECS itself gives an instance, beside those that moto has."""
    from moto.ec2.models import ec2_backends

    machine = ec2_backends[backend.account_id][backend.region_name].get_instance(instance_id)
    return {
        "ecs.cpu-architecture": machine.architecture or "x86_64",
        "ecs.os-family": "LINUX",
        "ecs.subnet-id": machine.subnet_id or "",
        "ecs.vpc-id": machine.vpc_id or "",
    }


def _subjects(instance: Any) -> dict[str, str]:
    attributes = {f"{ATTRIBUTE}{name}": value for name, value in instance.attributes.items()}
    return {
        **attributes,
        "agentConnected": str(instance.agent_connected).lower(),
        "ec2InstanceId": instance.ec2_instance_id,
    }


_EMPTY: Final[dict[str, Any]] = {"doubleValue": 0.0, "longValue": 0, "integerValue": 0, "stringSetValue": []}

CORRECTIONS = (
    container_instances_have_what_they_register,
    empty_clusters_have_no_container_instances,
    container_instances_are_filtered,
    deregistered_container_instances_leave_orphans,
)
