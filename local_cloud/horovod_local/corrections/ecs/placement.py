"""
Which container instances a task fits on: constraints, CPU, memory, host ports and GPUs.

Sources: Amazon ECS Developer Guide, "Amazon ECS task placement", "Service event messages" and "Amazon ECS task
definition parameters".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from horovod_local.corrections.ecs.cluster_query import ATTRIBUTE, compile_query

STOPPED: Final = "STOPPED"
HOST_NETWORK: Final = "host"
MEMBER_OF: Final = "memberOf"


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """
    What a task reserves on its container instance.

    Args:
        cpu: CPU units.
        memory: Memory in MiB.
        ports: TCP ports of the host.
        gpus: Number of GPUs, by the name of the container.
    """

    cpu: int
    memory: int
    ports: tuple[str, ...]
    gpus: Mapping[str, int]

    @classmethod
    def of(cls, definition: Any) -> Reservation:
        """Return what each task of a task definition reserves."""
        containers = definition.container_definitions
        return cls(
            cpu=int(definition.cpu or sum(container.get("cpu", 0) for container in containers)),
            memory=int(definition.memory or sum(_memory(container) for container in containers)),
            ports=tuple(port for container in containers for port in _ports(container, definition.network_mode)),
            gpus={container["name"]: count for container in containers if (count := gpu_count(container))},
        )


def gpu_count(container: Mapping[str, Any]) -> int:
    """Return the number of GPUs that a container definition requires."""
    return sum(int(item["value"]) for item in container.get("resourceRequirements") or () if item["type"] == "GPU")


def meets(instance: Any, constraints: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the attributes of a container instance meet every constraint."""
    values = {f"{ATTRIBUTE}{name}": value for name, value in instance.attributes.items()}
    return all(compile_query(constraint["expression"])(values) for constraint in constraints)


def obstacle(instance: Any, wanted: Reservation) -> str:
    """
    Return why a task cannot be placed on a container instance, worded as the end of ECS's sentence; '' if it can.

    The words for GPUs are not documented; they follow those for CPU units.
    """
    if not instance.agent_connected:
        return 'encountered error "AGENT"'
    if wanted.cpu > _number(instance.remaining_resources, "CPU"):
        return "has insufficient CPU units available"
    if wanted.memory > _number(instance.remaining_resources, "MEMORY"):
        return "has insufficient memory available"
    if set(wanted.ports) & set(_names(instance.remaining_resources, "PORTS")):
        return "is already using a port required by your task"
    if sum(wanted.gpus.values()) > len(_names(instance.remaining_resources, "GPU")):
        return "has insufficient GPU units available"
    return ""


def pin_gpus(instance: Any, wanted: Reservation) -> dict[str, list[str]]:
    """Choose the ids of the GPUs for each container of a task that fits."""
    free = iter(_names(instance.remaining_resources, "GPU"))
    return {name: [next(free) for _ in range(count)] for name, count in wanted.gpus.items()}


def remaining(instance: Any, tasks: Iterable[Any]) -> list[dict[str, Any]]:
    """Return the remaining resources of a container instance with these tasks; a stopped one reserves nothing."""
    active = [task for task in tasks if task.last_status != STOPPED]
    used = {container_id for task in active for container in task.containers for container_id in container.gpu_ids}
    taken = {
        "CPU": sum(task.reservation.cpu for task in active),
        "MEMORY": sum(task.reservation.memory for task in active),
    }
    left = []
    for resource in instance.registered_resources:
        match resource["name"]:
            case "CPU" | "MEMORY" as name:
                left.append({**resource, "integerValue": resource["integerValue"] - taken[name]})
            case "GPU":
                left.append(
                    {**resource, "stringSetValue": [gpu for gpu in resource["stringSetValue"] if gpu not in used]}
                )
            case "PORTS":
                # As in the API, the ports in use are listed, those that the agent reserves included.
                ports = [port for task in active for port in task.reservation.ports]
                left.append({**resource, "stringSetValue": [*resource["stringSetValue"], *ports]})
            case _:
                left.append(dict(resource))
    return left


def _memory(container: Mapping[str, Any]) -> int:
    # "If you specify both, memoryReservation is subtracted from the available memory resources."
    return int(container.get("memoryReservation") or container.get("memory") or 0)


def _ports(container: Mapping[str, Any], network_mode: str) -> Iterable[str]:
    for mapping in container.get("portMappings") or ():
        # "If you use the host network mode, hostPort can be left blank or must be the same value as containerPort."
        port = mapping.get("hostPort") or (mapping["containerPort"] if network_mode == HOST_NETWORK else 0)
        if port:
            yield str(port)


def _number(resources: Sequence[Mapping[str, Any]], name: str) -> int:
    return next((int(item["integerValue"]) for item in resources if item["name"] == name), 0)


def _names(resources: Sequence[Mapping[str, Any]], name: str) -> Sequence[str]:
    return next((item["stringSetValue"] for item in resources if item["name"] == name), ())
