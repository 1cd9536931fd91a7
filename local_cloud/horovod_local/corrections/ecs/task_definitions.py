"""
Task definitions: their revisions, and what of them is emulated.

Sources: Amazon ECS Developer Guide, "Amazon ECS task definition parameters", "Deregistering an Amazon ECS task
definition revision" and "Amazon ECS task definitions for GPU workloads"; Amazon ECS API Reference,
RegisterTaskDefinition, CreateService and UpdateService.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from horovod_local.corrections.ecs import placement
from horovod_local.corrections.ecs.cluster_query import QueryError, compile_query
from horovod_local.corrections.registry import correction

ACTIVE: Final = "ACTIVE"
NETWORK_MODES: Final = ("bridge", "host", "none")
LONGEST_EXPRESSION: Final = 2000
MOST_CONSTRAINTS: Final = 10
"""Characters of an expression, and constraints of a task, the service's included (API Reference)."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_NOT_EMULATED: Final = (
    "ephemeralStorage",
    "inferenceAccelerators",
    "pidMode",
    "proxyConfiguration",
    "trustedExecutionConfiguration",
)
_NOT_EMULATED_IN_CONTAINERS: Final = (
    "dependsOn",
    "environmentFiles",
    "firelensConfiguration",
    "healthCheck",
    "restartPolicy",
    "secrets",
    "volumesFrom",
)
"""Parameters that would change what a task does, and that are refused."""


@correction(
    moto="accepts every task definition, and refuses one for EC2 that has a memory reservation only",
    aws="starts tasks as all of its parameters say; here those that are not emulated are refused",
)
def task_definitions_are_emulated_or_refused() -> None:
    from moto.ecs.models import EC2ContainerServiceBackend, TaskDefinition
    from moto.ecs.responses import EC2ContainerServiceResponse

    register = EC2ContainerServiceBackend.register_task_definition

    def register_task_definition(
        self: Any,
        family: str,
        container_definitions: list[dict[str, Any]],
        volumes: list[dict[str, Any]] | None = None,
        network_mode: str | None = None,
        **rest: Any,
    ) -> Any:
        refuse_name(family, what="family")
        _refuse(container_definitions, volumes or (), network_mode or "bridge", rest)
        _check_containers(container_definitions, volumes or (), network_mode)
        definition: TaskDefinition = register(
            self, family, container_definitions, volumes=volumes, network_mode=network_mode, **rest
        )
        return definition

    from_request = EC2ContainerServiceResponse.register_task_definition

    def check_request(self: Any) -> Any:
        # moto does not pass these on.
        for name in _NOT_EMULATED:
            if self._get_param(name):
                raise _refused(name)
        return from_request(self)

    def validate(memory: str | None, containers: list[dict[str, Any]], _compatibilities: Any) -> None:
        from moto.ecs.exceptions import TaskDefinitionMemoryError, TaskDefinitionMissingPropertyError

        for container in containers:
            for name in ("name", "image"):
                if not container.get(name):
                    raise TaskDefinitionMissingPropertyError(name)
            if not (memory or container.get("memory") or container.get("memoryReservation")):
                raise TaskDefinitionMemoryError(container["name"])

    EC2ContainerServiceBackend._validate_container_defs = staticmethod(validate)
    EC2ContainerServiceBackend.register_task_definition = register_task_definition
    EC2ContainerServiceResponse.register_task_definition = check_request


@correction(
    moto="takes the newest revision of a family, even if it is inactive",
    aws="takes the newest active one",
)
def a_family_means_its_newest_active_revision() -> None:
    from moto.ecs.models import EC2ContainerServiceBackend

    describe_task_definition = EC2ContainerServiceBackend.describe_task_definition

    def describe(self: Any, task_definition_str: str) -> Any:
        name = task_definition_str.rpartition("/")[2]
        if ":" not in name:
            found = self.task_definitions.get(name, {})
            # There is no revision 0, so moto answers that there is no such task definition.
            name += f":{max((number for number, each in found.items() if each.status == ACTIVE), default=0)}"
        return describe_task_definition(self, name)

    EC2ContainerServiceBackend.describe_task_definition = describe


def for_a_service(backend: Any, name: str) -> Any:
    """
    Return the task definition that a service may begin to use, given by family, family and revision, or ARN.

    Raises:
        Exception: ECS's own error, if there is none, or it is inactive.
    """
    from moto.ecs.exceptions import EcsClientException, TaskDefinitionNotFoundException

    try:
        definition = backend.describe_task_definition(name)
    except TaskDefinitionNotFoundException:
        raise EcsClientException("TaskDefinition not found.") from None
    if definition.status != ACTIVE:
        raise EcsClientException("TaskDefinition is inactive")
    return definition


def refuse_name(name: str, *, what: str) -> None:
    """Refuse a name with other characters than "letters …, numbers, hyphens, and underscores", or over 255 of them."""
    from moto.ecs.exceptions import EcsClientException

    if not _NAME.fullmatch(name):
        raise EcsClientException(f"{what} must be 1 to 255 letters, numbers, hyphens and underscores, got {name}")


def refuse_constraints(constraints: Any, *, more: int = 0) -> None:
    """
    Refuse placement constraints that ECS or the local cloud does not accept.

    Args:
        constraints: The constraints, as in the API.
        more: Number of further constraints of the same task. Default: none.
    """
    from horovod_local.corrections.ecs.tasks import invalid

    if len(constraints) + more > MOST_CONSTRAINTS:
        raise invalid(f"a task must have at most {MOST_CONSTRAINTS} placement constraints")
    for constraint in constraints:
        if constraint["type"] != placement.MEMBER_OF:
            raise invalid(f"the local cloud evaluates constraints of the type memberOf only, got {constraint['type']}")
        if len(constraint.get("expression", "")) > LONGEST_EXPRESSION:
            raise invalid(f"an expression must have at most {LONGEST_EXPRESSION} characters")
        try:
            compile_query(constraint.get("expression", ""))
        except QueryError as error:
            raise invalid(str(error)) from error


def _refuse(containers: Any, volumes: Any, network_mode: str, rest: Mapping[str, Any]) -> None:
    if network_mode not in NETWORK_MODES:
        raise _refused("networkMode", network_mode)
    for name, value in rest.items():
        if value and _api_name(name) in _NOT_EMULATED:
            raise _refused(_api_name(name))
    if set(rest.get("requires_compatibilities") or ()) - {"EC2"}:
        raise _refused("requiresCompatibilities", ", ".join(rest["requires_compatibilities"]))
    refuse_constraints(rest.get("placement_constraints") or ())
    for volume in volumes:
        if unknown := set(volume) - {"name", "host"}:
            raise _refused(f"volumes.{', '.join(sorted(unknown))}")
    for container in containers:
        for name in _NOT_EMULATED_IN_CONTAINERS:
            if container.get(name):
                raise _refused(f"containerDefinitions.{name}")
        for item in container.get("resourceRequirements") or ():
            if item["type"] != "GPU" or not str(item["value"]).isdigit():
                raise _refused("containerDefinitions.resourceRequirements", f"{item['type']} {item['value']}")


def _check_containers(containers: Any, volumes: Any, network_mode: str | None) -> None:
    from moto.ecs.exceptions import EcsClientException

    known = {volume["name"] for volume in volumes}
    for container in containers:
        for mount in container.get("mountPoints") or ():
            if mount.get("sourceVolume") not in known:
                raise EcsClientException(f"Unknown volume '{mount.get('sourceVolume')}'.")
        for mapping in container.get("portMappings") or ():
            host = mapping.get("hostPort")
            if network_mode == placement.HOST_NETWORK and host not in (None, mapping["containerPort"]):
                raise EcsClientException(
                    "When networkMode=host, the host ports and container ports in port mappings must match."
                )


def _api_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _refused(name: str, value: str = "") -> Exception:
    from moto.ecs.exceptions import EcsClientException

    error: Exception = EcsClientException(f"the local cloud does not emulate {name}{f' {value}' if value else ''}")
    return error


CORRECTIONS = (task_definitions_are_emulated_or_refused, a_family_means_its_newest_active_revision)
