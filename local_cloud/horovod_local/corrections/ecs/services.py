"""
Daemon services: their requests, deployments and events.

Sources: Amazon ECS API Reference, CreateService, UpdateService, DeleteService and DescribeServices; Amazon ECS
Developer Guide, "Amazon ECS services" (daemon) and "Service event messages". Error messages are those that users have
reported, where there are such reports.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from horovod_local.corrections.ecs import task_definitions
from horovod_local.corrections.ecs.tasks import invalid
from horovod_local.corrections.registry import correction

ACTIVE: Final = "ACTIVE"
DRAINING: Final = "DRAINING"
INACTIVE: Final = "INACTIVE"
DAEMON: Final = "DAEMON"
PRIMARY: Final = "PRIMARY"
COMPLETED: Final = "COMPLETED"
IN_PROGRESS: Final = "IN_PROGRESS"
MOST_SERVICES: Final = 10
"""Services in one request of DescribeServices (API Reference)."""
MOST_EVENTS: Final = 100
""""We only show the 100 most recent events" (Developer Guide)."""

_NOT_EMULATED: Final = (
    "gatewayConnectors",
    "loadBalancers",
    "monitoring",
    "networkConfiguration",
    "platformVersion",
    "role",
    "serviceConnectConfiguration",
    "serviceRegistries",
    "volumeConfigurations",
    "vpcLatticeConfigurations",
)
_NOT_EMULATED_IN_DEPLOYMENTS: Final = ("alarms", "bakeTimeInMinutes", "deploymentCircuitBreaker", "lifecycleHooks")
"""Parameters that would change what a service does, and that are refused."""


@correction(
    moto="makes a service that never has tasks, drops constraints and deployment configuration, and accepts what a "
    "daemon cannot have",
    aws="refuses the latter, and runs the tasks; here services other than daemons are refused",
)
def services_are_daemons() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    EC2ContainerServiceResponse.create_service = lambda self: ActionResult(
        {"service": create(self.ecs_backend, self._get_params())}
    )


@correction(
    moto="takes any revision, active or not, and changes the service without a deployment",
    aws="refuses an inactive revision, and starts a deployment if the revision differs or a deployment is forced",
)
def updated_services_are_deployed() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    EC2ContainerServiceResponse.update_service = lambda self: ActionResult(
        {"service": update(self.ecs_backend, self._get_params())}
    )


@correction(
    moto="leaves the tasks of a deleted service running, and goes on listing it",
    aws="stops its tasks, and no longer lists it",
)
def deleted_services_stop_their_tasks() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def list_services(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        kinds = (("scheduling_strategy", "schedulingStrategy"), ("launch_type", "launchType"))
        found = [
            service.arn
            for service in of_cluster(backend, cluster.name)
            if service.status == ACTIVE
            and all(self._get_param(asked) in (None, getattr(service, kind)) for kind, asked in kinds)
        ]
        return ActionResult({"serviceArns": sorted(found)})

    EC2ContainerServiceResponse.delete_service = lambda self: ActionResult(
        {"service": delete(self.ecs_backend, self._get_param("cluster", "default"), self._get_param("service"))}
    )
    EC2ContainerServiceResponse.list_services = list_services


@correction(
    moto="describes any number of services in one request",
    aws="describes at most ten",
)
def few_services_are_described_at_once() -> None:
    from moto.ecs.responses import EC2ContainerServiceResponse

    describe_services = EC2ContainerServiceResponse.describe_services

    def describe(self: Any) -> Any:
        asked = self._get_param("services") or []
        if not 0 < len(asked) <= MOST_SERVICES:
            raise invalid(f"Services must be 1 to {MOST_SERVICES}, got {len(asked)}.")
        return describe_services(self)

    EC2ContainerServiceResponse.describe_services = describe


def create(backend: Any, given: Mapping[str, Any]) -> Any:
    """
    Create a daemon service.

    Args:
        backend: moto's ECS of account and Region.
        given: The members of the request CreateService.
    """
    from moto.core.utils import utcnow
    from moto.ecs.models import Service

    cluster = backend._get_cluster(given.get("cluster") or "default")
    name = given["serviceName"]
    task_definitions.refuse_name(name, what="serviceName")
    _refuse(given)
    strategy = given.get("schedulingStrategy") or "REPLICA"
    if strategy != DAEMON:
        raise invalid(f"the local cloud runs services with the scheduling strategy {DAEMON} only, got {strategy}")
    if given.get("capacityProviderStrategy") or (
        cluster.default_capacity_provider_strategy and not given.get("launchType")
    ):
        raise invalid(
            "Specifying a capacity provider strategy is not supported when you create a service using the DAEMON "
            "scheduling strategy."
        )
    if (given.get("launchType") or "EC2") != "EC2":
        raise invalid("The daemon scheduling strategy is not supported for the launch type " + given["launchType"])
    present = backend.services.get(f"{cluster.name}:{name}")
    if present is not None and present.status == ACTIVE:
        raise invalid("Creation of service was not idempotent.")
    if present is not None and present.status == DRAINING:
        raise invalid("Unable to Start a service that is still Draining.")
    definition = task_definitions.for_a_service(backend, given.get("taskDefinition") or "")
    constraints = given.get("placementConstraints") or []
    task_definitions.refuse_constraints(constraints, more=len(definition.placement_constraints))
    service = Service(
        cluster=cluster,
        service_name=name,
        desired_count=0,
        backend=backend,
        task_definition=definition,
        scheduling_strategy=DAEMON,
        tags=given.get("tags"),
        launch_type="EC2",
        propagate_tags=given.get("propagateTags") or "NONE",
    )
    service.placement_constraints, service.created_at = constraints, utcnow()
    service.deployment_configuration = _deployment_configuration(given)
    service.availability_zone_rebalancing = "DISABLED"
    service.enable_ecs_managed_tags = bool(given.get("enableECSManagedTags"))
    service.enable_execute_command = bool(given.get("enableExecuteCommand"))
    service.deployments, service.events, service.pending_count = [], [], 0
    service.open_causes = set()
    backend.services[f"{cluster.name}:{name}"] = service
    _deploy(service)
    return service


def update(backend: Any, given: Mapping[str, Any]) -> Any:
    """
    Update a service, and deploy it if its revision changes or a deployment is forced.

    Args:
        backend: moto's ECS of account and Region.
        given: The members of the request UpdateService.
    """
    service = find(backend, given.get("cluster") or "default", given["service"])
    _refuse(given)
    if given.get("capacityProviderStrategy"):
        raise invalid("Specifying a capacity provider strategy is not supported for a service of the strategy DAEMON.")
    named = given.get("taskDefinition")
    definition = task_definitions.for_a_service(backend, named) if named else None
    constraints = given.get("placementConstraints")
    if constraints is not None:
        now = definition or backend.describe_task_definition(service.task_definition)
        task_definitions.refuse_constraints(constraints, more=len(now.placement_constraints))
        # "If this value is specified, it will override any existing placement constraints."
        service.placement_constraints = constraints
    if given.get("deploymentConfiguration"):
        service.deployment_configuration = _deployment_configuration(given)
    changed = definition is not None and definition.arn != service.task_definition
    if definition is not None:
        service.task_definition = definition.arn
    # "By default, deployments aren't forced."
    if changed or given.get("forceNewDeployment"):
        _deploy(service)
    return service


def delete(backend: Any, cluster: str, name: str) -> Any:
    """Delete a service: its tasks are stopped, then it is inactive. A daemon needs no `force` (API Reference)."""
    service = find(backend, cluster, name)
    service.status = DRAINING
    return service


def find(backend: Any, cluster: str, name: str) -> Any:
    """
    Return an active service, given by name or ARN.

    Raises:
        Exception: ECS's own error, if there is none, or it is not active.
    """
    from moto.ecs.exceptions import ECSException

    service = backend._get_service(cluster, name)
    if service.status != ACTIVE:
        raise ECSException("ServiceNotActiveException", "Service was not ACTIVE.")
    return service


def of_cluster(backend: Any, cluster: str) -> list[Any]:
    """List the services of a cluster in the order of their creation."""
    return [service for service in list(backend.services.values()) if service.cluster_name == cluster]


def note(service: Any, message: str) -> None:
    """Add an event to a service; the newest is the first."""
    from moto.core.utils import utcnow

    event = {"id": str(uuid.uuid4()), "createdAt": utcnow(), "message": f"(service {service.name}) {message}"}
    service.events = [event, *service.events][:MOST_EVENTS]


def note_causes(service: Any, causes: set[str]) -> None:
    """Add an event for each new cause: "Duplicate event messages are omitted until … the cause is resolved"."""
    for cause in sorted(causes - service.open_causes):
        note(service, cause)
    service.open_causes = causes


def primary(service: Any) -> dict[str, Any]:
    """Return the newest deployment of a service."""
    newest: dict[str, Any] = service.deployments[0]
    return newest


def _deploy(service: Any) -> None:
    """Start a deployment, which becomes the primary one."""
    from moto.core.utils import utcnow

    for former in service.deployments:
        former["status"] = ACTIVE
    now, number = utcnow(), f"ecs-svc/{uuid.uuid4().int % 10**19:019}"
    service.deployments.insert(
        0,
        {
            "id": number,
            "status": PRIMARY,
            "taskDefinition": service.task_definition,
            "desiredCount": 0,
            "runningCount": 0,
            "pendingCount": 0,
            "failedTasks": 0,
            "launchType": "EC2",
            "createdAt": now,
            "updatedAt": now,
            "rolloutState": IN_PROGRESS,
            "rolloutStateReason": f"ECS deployment {number} in progress.",
        },
    )


def _deployment_configuration(given: Mapping[str, Any]) -> dict[str, Any]:
    wanted = given.get("deploymentConfiguration") or {}
    for name in _NOT_EMULATED_IN_DEPLOYMENTS:
        # A circuit breaker that is not enabled does nothing.
        if wanted.get(name) and wanted[name] != {"enable": False, "rollback": False}:
            raise invalid(f"the local cloud does not emulate deploymentConfiguration.{name}")
    if (wanted.get("strategy") or "ROLLING") != "ROLLING":
        raise invalid(f"the local cloud does not emulate the deployment strategy {wanted['strategy']}")
    if wanted.get("maximumPercent", 100) > 100:
        raise invalid(
            "The daemon scheduling strategy does not support values above 100 for maximumPercent on a deployment "
            "configuration. Change the maximumPercent value to 100, and try again"
        )
    minimum = wanted.get("minimumHealthyPercent")
    # "The default value for a daemon service for minimumHealthyPercent is 0%."
    return {**wanted, "maximumPercent": 100, "minimumHealthyPercent": 0 if minimum is None else int(minimum)}


def _refuse(given: Mapping[str, Any]) -> None:
    for name in _NOT_EMULATED:
        if given.get(name):
            raise invalid(f"the local cloud does not emulate {name} of a service")
    if ((given.get("deploymentController") or {}).get("type") or "ECS") != "ECS":
        raise invalid(f"The {given['deploymentController']['type']} deployment controller does not support DAEMON.")
    if given.get("desiredCount") is not None:
        raise invalid(
            "The daemon scheduling strategy does not support a desired count for services. Remove the desired count "
            "value and try again"
        )
    if given.get("placementStrategy"):
        raise invalid(
            "The daemon scheduling strategy does not support placement strategies. Remove the placement strategy and "
            "try again"
        )
    if given.get("availabilityZoneRebalancing") == "ENABLED":
        raise invalid("The daemon scheduling strategy does not support Availability Zone rebalancing.")


CORRECTIONS = (
    services_are_daemons,
    updated_services_are_deployed,
    deleted_services_stop_their_tasks,
    few_services_are_described_at_once,
)
