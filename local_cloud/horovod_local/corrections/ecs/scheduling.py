"""
What ECS does by itself: it places, replaces and stops the tasks of daemon services, and deregisters instances.

Sources: Amazon ECS Developer Guide, "Amazon ECS services" (daemon), "Amazon ECS deployment types" (rolling update),
"Container instance draining", "Service throttle logic" and "Service event messages"; Amazon ECS API Reference,
DeregisterContainerInstance. Several daemons are placed in the order of their creation; AWS documents no order.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from horovod_local.corrections.ecs import container_instances, placement, services, tasks
from horovod_local.corrections.ecs.container_instances import ACTIVE
from horovod_local.corrections.ecs.placement import STOPPED
from horovod_local.corrections.ecs.tasks import RUNNING
from horovod_local.corrections.permissions import may_assume

TASKS: Final = "ecs-tasks.amazonaws.com"
RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 900.0
"""
Pause after a task that failed to start, doubled with each further failure on the same instance, and its limit. AWS
documents that the pause grows, and this limit.
"""
INCONSISTENT: Final = 3
"""Failures in a row from which a service "is unable to consistently start tasks"; AWS documents no number."""

_GUIDE: Final = "For more information, see the Troubleshooting section of the Amazon ECS Developer Guide."
_lock: Final = threading.Lock()
_log = logging.getLogger(__name__)


def advance(account: str, region: str, *, now: float) -> None:
    """
    Bring the clusters of an account and Region to the time *now*.

    Args:
        account: The account.
        region: The Region.
        now: The monotonic time.
    """
    from moto.ecs.models import ecs_backends

    backend = ecs_backends[account][region]
    with _lock:
        for cluster in list(backend.clusters.values()):
            _deregister_terminated(backend, cluster)
            tasks.forget_old(backend, cluster.name, now=now)
            container_instances.recount(backend, cluster)
            for service in services.of_cluster(backend, cluster.name):
                if service.status == services.ACTIVE:
                    _advance(backend, cluster, service, now=now)
                elif service.status == services.DRAINING:
                    _end(backend, service)
                _count(backend, service)


def _deregister_terminated(backend: Any, cluster: Any) -> None:
    """
    Deregister the instances that EC2 has terminated.

    API Reference: "If you terminate a running container instance, Amazon ECS automatically deregisters the instance …
    instances with disconnected agents aren't automatically deregistered when terminated".
    """
    from moto.ec2.models import ec2_backends

    ec2 = ec2_backends[backend.account_id][backend.region_name]
    for instance in container_instances.of_cluster(backend, cluster.name):
        if instance.agent_connected and ec2.get_instance(instance.ec2_instance_id).state == "terminated":
            reason = f"Host EC2 (instance {instance.ec2_instance_id}) terminated."
            container_instances.remove(backend, instance, reason=reason, code=tasks.BY_TERMINATION)


def _advance(backend: Any, cluster: Any, service: Any, *, now: float) -> None:
    definition = backend.describe_task_definition(service.task_definition)
    mine = [task for task in tasks.of_service(backend, service) if task.last_status != STOPPED]
    constraints = [*service.placement_constraints, *definition.placement_constraints]
    instances = {
        instance.container_instance_arn: instance
        for instance in container_instances.of_cluster(backend, cluster.name)
        if placement.meets(instance, constraints)
    }
    # The agent of a new instance connects a moment after it has registered.
    active = [instance for instance in instances.values() if instance.status == ACTIVE and instance.was_connected]
    service.desired_count = len(active)
    _stop_surplus(service, [task for task in mine if task.desired_status == RUNNING], fitting=instances)
    occupied = {task.container_instance_arn for task in mine}
    failures, retry_at = _failures(backend, service)
    causes = {"is unable to consistently start tasks successfully."} if failures >= INCONSISTENT else set()
    if now >= retry_at:
        empty = [instance for instance in active if instance.container_instance_arn not in occupied]
        causes |= _place(backend, cluster, service, definition, empty)
    services.note_causes(service, causes)


def _end(backend: Any, service: Any) -> None:
    """Stop the tasks of a deleted service; without tasks it is inactive."""
    left = [task for task in tasks.of_service(backend, service) if task.last_status != STOPPED]
    _stop(service, [task for task in left if task.desired_status == RUNNING])
    if not left:
        service.status = services.INACTIVE


def _stop_surplus(service: Any, running: Sequence[Any], *, fitting: dict[str, Any]) -> None:
    """Stop the tasks of instances that do not fit any more or drain, and those of earlier deployments."""
    newest = services.primary(service)["id"]
    misplaced = [task for task in running if task.container_instance_arn not in fitting]
    kept = [task for task in running if task.container_instance_arn in fitting]
    outdated = [
        task for task in kept if task.started_by != newest or fitting[task.container_instance_arn].status != ACTIVE
    ]
    # "minimumHealthyPercent represents the lower limit on the number of tasks that should be running … during a
    # deployment or when a container instance is draining … This value is rounded up." Pending tasks are not counted.
    minimum = math.ceil(service.desired_count * service.deployment_configuration["minimumHealthyPercent"] / 100)
    healthy = [task for task in kept if task.last_status == RUNNING]
    spare = max(0, len(healthy) - minimum)
    pending = [task for task in outdated if task.last_status != RUNNING]
    _stop(service, [*misplaced, *pending, *[task for task in outdated if task in healthy][:spare]])


def _stop(service: Any, stopped: Sequence[Any]) -> None:
    reason = f"Scaling activity initiated by (deployment {services.primary(service)['id']})"
    for task in stopped:
        tasks.request_stop(task, reason=reason, code=tasks.BY_SCHEDULER)
    _note(service, "has stopped {} running tasks: {}.", stopped)


def _failures(backend: Any, service: Any) -> tuple[int, float]:
    """
    Return how many tasks in a row have failed to start on one instance, and when the next may be started.

    "Tasks that are stopped after they reach the RUNNING state don't start the throttle logic", and after an update with
    another task definition "your service returns to a normal, non-throttled state immediately".
    """
    newest = services.primary(service)["id"]
    failed: Counter[str] = Counter()
    last = 0.0
    for task in tasks.of_service(backend, service):
        if task.started_by == newest and task.started_at is not None:
            failed.clear()
        elif task.started_by == newest and task.stop_code == tasks.FAILED_TO_START:
            failed[task.container_instance_arn] += 1
            last = task.ended_at
    most = max(failed.values(), default=0)
    return most, last + min(RETRY_SECONDS * 2 ** (most - 1), LONGEST_RETRY_SECONDS) if most else 0.0


def _place(backend: Any, cluster: Any, service: Any, definition: Any, empty: Sequence[Any]) -> set[str]:
    """Place a task on each of the instances that have none; return why some were not placed."""
    if not empty:
        return set()
    refused = next((role for role in _roles(definition) if not _may_assume(backend, role)), None)
    if refused is not None:
        return {
            f"failed to launch a task with (error ECS was unable to assume the role '{refused}' that was provided for "
            "this task. Please verify that the role being passed has the proper trust relationship and permissions and "
            "that your IAM user has permissions to pass this role.)."
        }
    wanted = placement.Reservation.of(definition)
    obstacles = [(instance.id, placement.obstacle(instance, wanted)) for instance in empty]
    started = [
        tasks.create(backend, service=service, instance=instance, definition=definition)
        for instance, (_, obstacle) in zip(empty, obstacles, strict=True)
        if not obstacle
    ]
    container_instances.recount(backend, cluster)
    _note(service, "has started {} tasks: {}.", started)
    return {
        "was unable to place a task because no container instance met all of its requirements. The closest matching "
        f"(container-instance {closest}) {obstacle}. {_GUIDE}"
        for closest, obstacle in [found for found in obstacles if found[1]][:1]
    }


def _roles(definition: Any) -> list[str]:
    named = (getattr(definition, name, None) for name in ("task_role_arn", "execution_role_arn"))
    return [role for role in named if role]


def _may_assume(backend: Any, role: str) -> bool:
    # "Using the aws:SourceArn condition key to specify a specific cluster is not currently supported" (Developer Guide,
    # "Task IAM role"), so the ARN names none.
    source = f"arn:{role.split(':')[1]}:ecs:{backend.region_name}:{backend.account_id}:task"
    return may_assume(TASKS, role, source=source, account=backend.account_id)


def _count(backend: Any, service: Any) -> None:
    """Count the tasks of a service and of its deployments, and end the deployments that are over."""
    before = (service.running_count, service.pending_count)
    listed = tasks.of_service(backend, service)
    service.running_count, service.pending_count = container_instances.count(listed)
    newest = services.primary(service)
    for deployment in list(service.deployments):
        of_it = [task for task in listed if task.started_by == deployment["id"]]
        deployment["runningCount"], deployment["pendingCount"] = container_instances.count(of_it)
        deployment["failedTasks"] = sum(task.stop_code == tasks.FAILED_TO_START for task in of_it)
        if deployment is not newest and all(task.last_status == STOPPED for task in of_it):
            service.deployments.remove(deployment)
    newest["desiredCount"] = service.desired_count
    if service.status != services.ACTIVE or len(service.deployments) > 1:
        return
    if newest["runningCount"] == service.desired_count:
        completes = newest["rolloutState"] != services.COMPLETED
        newest["rolloutState"] = services.COMPLETED
        newest["rolloutStateReason"] = f"ECS deployment {newest['id']} completed."
        if completes:
            services.note(service, f"(deployment {newest['id']}) deployment completed.")
        if completes or before != (service.running_count, service.pending_count):
            services.note(service, "has reached a steady state.")


def _note(service: Any, message: str, listed: Sequence[Any]) -> None:
    if listed:
        named = " ".join(f"(task {task.id})" for task in listed)
        services.note(service, message.format(len(listed), named))
        _log.info("%s %s", service.name, message.format(len(listed), named))
