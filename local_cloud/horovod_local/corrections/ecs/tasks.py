"""
Tasks: from their placement until they are forgotten, an hour after their end.

Sources: Amazon ECS API Reference, `Task`, ListTasks, DescribeTasks, StopTask and SubmitTaskStateChange; Amazon ECS
Developer Guide, "Amazon ECS task lifecycle" and "Checking stopped tasks for errors".
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from horovod_local.corrections.ecs import placement
from horovod_local.corrections.ecs.pages import page
from horovod_local.corrections.registry import correction

PENDING: Final = "PENDING"
RUNNING: Final = "RUNNING"
STOPPED: Final = placement.STOPPED
EXITED: Final = "EssentialContainerExited"
FAILED_TO_START: Final = "TaskFailedToStart"
BY_SCHEDULER: Final = "ServiceSchedulerInitiated"
BY_USER: Final = "UserInitiated"
BY_TERMINATION: Final = "TerminationNotice"
"""Values of `stopCode`."""
REMEMBERED_SECONDS: Final = 3600
""""Stopped tasks only appear … for at least 1 hour after the task stops."""
MOST_TASKS: Final = 100
"""Tasks in one request of DescribeTasks (API Reference)."""


@dataclass(kw_only=True)
class TaskContainer:
    """One container of a task, with the members of the API's `Container`."""

    container_arn: str
    task_arn: str
    name: str
    image: str
    cpu: str
    gpu_ids: list[str]
    memory: str | None = None
    memory_reservation: str | None = None
    last_status: str = PENDING
    health_status: str = "UNKNOWN"
    exit_code: int | None = None
    reason: str | None = None
    runtime_id: str | None = None
    network_bindings: list[dict[str, Any]] = field(default_factory=list)


def create(backend: Any, *, service: Any, instance: Any, definition: Any) -> Any:
    """Place a task of the newest deployment of *service* on a container instance on which it fits, and return it."""
    from moto.core.utils import utcnow
    from moto.ecs.models import Task

    task = Task(
        backend.clusters[service.cluster_name],
        definition,
        instance.container_instance_arn,
        {},
        backend=backend,
        group=group_of(service),
        launch_type="EC2",
        started_by=service.deployments[0]["id"],
    )
    task.reservation = placement.Reservation.of(definition)
    gpus = placement.pin_gpus(instance, task.reservation)
    base = task.task_arn.replace(":task/", ":container/")
    task.containers = [
        TaskContainer(
            container_arn=f"{base}/{uuid.uuid4()}",
            task_arn=task.task_arn,
            name=container["name"],
            image=container["image"],
            cpu=str(container.get("cpu", 0)),
            memory=_text(container.get("memory")),
            memory_reservation=_text(container.get("memoryReservation")),
            gpu_ids=gpus.get(container["name"], []),
        )
        for container in definition.container_definitions
    ]
    task.last_status, task.created_at, task.started_at, task.stopped_at = PENDING, utcnow(), None, None
    task.cpu, task.memory = str(task.reservation.cpu), str(task.reservation.memory)
    task.availability_zone = instance.attributes["ecs.availability-zone"]
    task.stop_code, task.connectivity, task.health_status, task.version = None, "CONNECTED", "UNKNOWN", 1
    backend.tasks.setdefault(service.cluster_name, {})[task.task_arn] = task
    return task


def group_of(service: Any) -> str:
    """Return the task group of a service's tasks."""
    return f"service:{service.name}"


def of_service(backend: Any, service: Any) -> list[Any]:
    """List the tasks of *service*, stopped ones included."""
    return [task for task in _of_cluster(backend, service.cluster_name) if task.group == group_of(service)]


def of_instance(backend: Any, instance: Any) -> list[Any]:
    """List the tasks on a container instance, stopped ones included."""
    arn = instance.container_instance_arn
    return [task for task in _of_cluster(backend, instance.cluster_name) if task.container_instance_arn == arn]


def request_stop(task: Any, *, reason: str, code: str) -> None:
    """Ask the container agent to stop a task; repeated requests keep the first reason."""
    from moto.core.utils import utcnow

    if task.desired_status != STOPPED:
        task.desired_status, task.stopped_reason, task.stop_code = STOPPED, reason, code
        task.stopping_at = utcnow()


def end(task: Any, *, reason: str, code: str) -> None:
    """Record that a task has stopped; a reason for which it was asked to stop counts more than *reason*."""
    from moto.core.utils import utcnow

    request_stop(task, reason=reason, code=code)
    task.last_status, task.stopped_at, task.ended_at = STOPPED, utcnow(), time.monotonic()
    for container in task.containers:
        container.last_status = STOPPED


def forget_old(backend: Any, cluster: str, *, now: float) -> None:
    """Remove the tasks that stopped more than `REMEMBERED_SECONDS` ago."""
    for task in _of_cluster(backend, cluster):
        if task.last_status == STOPPED and now > task.ended_at + REMEMBERED_SECONDS:
            del backend.tasks[cluster][task.task_arn]


@correction(
    moto="moves a task on, from RUNNING to STOPPED, whenever it is described, and finds it by any part of its ARN",
    aws="changes nothing, and names tasks that the cluster does not have as failures",
)
def describing_tasks_changes_nothing() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse
    from moto.moto_api import state_manager

    state_manager.set_transition("ecs::task", {"progression": "manual", "times": sys.maxsize})

    def describe_tasks(self: Any) -> Any:
        backend, asked = self.ecs_backend, self._get_param("tasks") or []
        if not 0 < len(asked) <= MOST_TASKS:
            raise invalid("Tasks cannot be empty." if not asked else f"Tasks must be at most {MOST_TASKS}.")
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        found = [(name, _find(backend, cluster.name, name)) for name in asked]
        return ActionResult(
            {
                "tasks": [task for _, task in found if task is not None],
                "failures": [{"arn": name, "reason": "MISSING"} for name, task in found if task is None],
            }
        )

    EC2ContainerServiceResponse.describe_tasks = describe_tasks


@correction(
    moto="lists the tasks of every cluster whose name contains the given one, whatever their service, and stopped ones",
    aws="lists those of the one cluster, by default those that shall run, a hundred at a time",
)
def tasks_are_listed_by_their_properties() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def list_tasks(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        found: Iterable[Any] = _of_cluster(backend, cluster.name)
        # API Reference, ListTasks: "The default status filter is RUNNING."
        status = self._get_param("desiredStatus") or RUNNING
        found = [task for task in found if task.desired_status == status]
        if service := self._get_param("serviceName"):
            group = group_of(backend._get_service(cluster.name, service.rpartition("/")[2]))
            found = [task for task in found if task.group == group]
        if family := self._get_param("family"):
            found = [task for task in found if f":task-definition/{family}:" in task.task_definition_arn]
        if instance := self._get_param("containerInstance"):
            found = [task for task in found if task.container_instance_arn.endswith(instance.rpartition("/")[2])]
        if started_by := self._get_param("startedBy"):
            found = [task for task in found if task.started_by == started_by]
        if launch_type := self._get_param("launchType"):
            found = [task for task in found if task.launch_type == launch_type]
        arns = [task.task_arn for task in found]
        return ActionResult(page("taskArns", arns, self._get_param("nextToken"), self._get_param("maxResults")))

    EC2ContainerServiceResponse.list_tasks = list_tasks


@correction(
    moto="stops a task at once, whatever runs",
    aws="asks the container agent to stop it, and calls it stopped when the agent says so",
)
def stopped_tasks_end_on_their_instance() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def stop_task(self: Any) -> Any:
        backend = self.ecs_backend
        cluster = backend._get_cluster(self._get_param("cluster", "default"))
        task = _find(backend, cluster.name, self._get_param("task"))
        if task is None:
            raise invalid("The referenced task was not found.")
        request_stop(task, reason=self._get_param("reason") or "Task stopped by user", code=BY_USER)
        return ActionResult({"task": task})

    EC2ContainerServiceResponse.stop_task = stop_task


@correction(
    moto="has neither SubmitTaskStateChange nor SubmitContainerStateChange",
    aws="learns by them from the container agent what has become of a task",
)
def container_agents_report_what_they_do() -> None:
    from moto.core.responses import ActionResult
    from moto.ecs.responses import EC2ContainerServiceResponse

    def submit_task_state_change(self: Any) -> Any:
        task = _submitted(self)
        for change in self._get_param("containers") or ():
            _note_container(task, change)
        _note_task(task, status=self._get_param("status"), reason=self._get_param("reason") or "")
        for moment in ("pullStartedAt", "pullStoppedAt"):
            if self._get_param(moment):
                name = "pull_started_at" if moment == "pullStartedAt" else "pull_stopped_at"
                setattr(task, name, self._get_param(moment))
        return ActionResult({"acknowledgment": "ACCEPT"})

    def submit_container_state_change(self: Any) -> Any:
        change = {name: self._get_param(name) for name in ("containerName", "status", "exitCode", "reason")}
        _note_container(_submitted(self), change)
        return ActionResult({"acknowledgment": "ACCEPT"})

    EC2ContainerServiceResponse.submit_task_state_change = submit_task_state_change
    EC2ContainerServiceResponse.submit_container_state_change = submit_container_state_change


@correction(
    moto="runs tasks without regard to constraints, GPUs and the limit of ten in a request",
    aws="regards them; here single tasks are refused, and only daemon services have tasks",
)
def single_tasks_are_refused() -> None:
    from moto.ecs.responses import EC2ContainerServiceResponse

    def refuse(_self: Any) -> Any:
        raise invalid("the local cloud runs the tasks of daemon services only, neither RunTask nor StartTask")

    EC2ContainerServiceResponse.run_task = refuse
    EC2ContainerServiceResponse.start_task = refuse


def invalid(message: str) -> Exception:
    """Make the error of a parameter that ECS, or the local cloud, does not accept."""
    from moto.ecs.exceptions import InvalidParameterException

    error: Exception = InvalidParameterException(message)
    return error


def _submitted(request: Any) -> Any:
    backend = request.ecs_backend
    cluster = backend._get_cluster(request._get_param("cluster", "default"))
    task = _find(backend, cluster.name, request._get_param("task") or "")
    if task is None:
        raise invalid("The referenced task was not found.")
    return task


def _note_task(task: Any, *, status: str, reason: str) -> None:
    from moto.core.utils import utcnow

    if status == RUNNING and task.last_status == PENDING:
        task.last_status, task.started_at = RUNNING, utcnow()
    elif status == STOPPED and task.last_status != STOPPED:
        # "Essential container in task exited" is ECS's own word for a container that ended by itself.
        exited = task.last_status == RUNNING
        end(
            task,
            reason="Essential container in task exited" if exited else reason,
            code=EXITED if exited else FAILED_TO_START,
        )


def _note_container(task: Any, change: Mapping[str, Any]) -> None:
    for container in task.containers:
        if container.name == change["containerName"] and container.last_status != STOPPED:
            container.last_status = change["status"]
            container.exit_code, container.reason = change.get("exitCode"), change.get("reason")


def _find(backend: Any, cluster: str, name_or_arn: str) -> Any:
    """Return the task with this id or ARN; None if the cluster has none."""
    return next((task for task in _of_cluster(backend, cluster) if name_or_arn in (task.id, task.task_arn)), None)


def _of_cluster(backend: Any, cluster: str) -> list[Any]:
    return list(backend.tasks.get(cluster, {}).values())


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


CORRECTIONS = (
    describing_tasks_changes_nothing,
    tasks_are_listed_by_their_properties,
    stopped_tasks_end_on_their_instance,
    container_agents_report_what_they_do,
    single_tasks_are_refused,
)
