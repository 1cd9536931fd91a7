"""
The ECS container agent of one instance: it registers the instance, runs its tasks, and reports what becomes of them.

It signs with the instance's role, like the real one. Sources: amazon-ecs-agent (registration, GPUs, image pulls, task
credentials); Amazon ECS Developer Guide, "Amazon ECS container agent configuration" and "Task IAM role".
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from horovod_local.corrections.ecs import agent_messages
from horovod_local.corrections.ecs.agent_messages import InactiveInstanceError, TaskMessage
from horovod_local.corrections.ecs.tasks import PENDING, RUNNING, STOPPED
from horovod_local.errors import LocalCloudError
from horovod_local.instances.container import Container, ContainerHost, runs_agent
from horovod_local.instances.ecs_task import EcsTask
from horovod_local.instances.instance_types import resources_of
from horovod_local.permissions.principals import PRINCIPALS
from horovod_local.shared.faults import ACTIVE_FAULTS

CONFIG_FILE: Final = "/etc/ecs/ecs.config"
"""File that user data writes for the container agent."""
POLL_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 1.0
"""Pause after a request that failed."""
RESERVED_PORTS: Final = ("22", "2375", "2376", "51678", "51679")
"""Ports of SSH, Docker and the agent, which the agent registers as used."""
MEMORY_SHARE: Final = 0.95
"""Share of a type's memory that its instances register: an estimate of what the kernel reports as total."""
CREDENTIALS_HOURS: Final = 6

_log = logging.getLogger(__name__)


class ContainerAgent(threading.Thread):
    """
    The container agent of an instance, until `stop` is called.

    Args:
        config: Variables of `CONFIG_FILE`.
        host: The instance, for containers.
        instance_id: Its id.
        instance_type: Its type.
        region: Its Region.
        make_client: Makes an ECS client with the credentials of the instance's role.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, str],
        host: ContainerHost,
        instance_id: str,
        instance_type: str,
        region: str,
        make_client: Callable[[], Any],
    ) -> None:
        super().__init__(name=f"container-agent-{instance_id}", daemon=True)
        self.dropped = False
        """Whether the instance is unreachable."""
        self._config = config
        self._host = host
        self._instance_id = instance_id
        self._instance_type = instance_type
        self._region = region
        self._make_client = make_client
        self._client: Any = None
        self._cluster = config.get("ECS_CLUSTER") or "default"
        self._arn = ""
        self._connected = False
        self._deregistered = False
        self._tasks: dict[str, EcsTask] = {}
        self._images: set[str] = set()
        self._keys: dict[str, str] = {}
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        """Held while containers are started, so that none is started once the agent has been stopped."""

    @property
    def node_pid(self) -> int | None:
        """Process id of the node's container; None if none runs."""
        for task in self._all():
            for container, definition in zip(task.containers, task.message.containers, strict=False):
                if container.exit_code is None and runs_agent(task.message, definition):
                    return container.pid
        return None

    def run(self) -> None:
        self._client = self._make_client()
        pause = POLL_SECONDS
        while not self._stopping.wait(pause):
            pause = POLL_SECONDS
            try:
                self._step()
            except (BotoCoreError, ClientError, LocalCloudError, PermissionError, ValueError) as error:
                _log.warning("container agent of %s: %s", self._instance_id, error)
                pause = RETRY_SECONDS
            except Exception:
                _log.exception("the container agent of %s failed; trying again", self._instance_id)
                pause = RETRY_SECONDS

    def stop(self) -> None:
        """Start no container any more, and send SIGTERM to those that run."""
        with self._starting:
            self._stopping.set()
        for task in self._all():
            task.stop()

    def is_off(self) -> bool:
        """Whether every container has ended."""
        for task in self._all():
            task.supervise(now=time.monotonic())
        return all(task.status != RUNNING for task in self._all())

    def cut_power(self) -> None:
        """Start no container any more; the caller kills those that run, and `reap` then waits for them."""
        with self._starting:
            self._stopping.set()

    def reap(self) -> None:
        """Wait for the killed containers."""
        for task in self._all():
            for container in task.containers:
                container.wait()

    def answer(self, path: str) -> tuple[int, Any]:
        """Answer a container's request at the task endpoint, by HTTP status and JSON; *path* begins after the host."""
        version, _, rest = path.lstrip("/").partition("/")
        container_id, _, what = rest.removeprefix("credentials/").partition("/")
        for task in self._all():
            for container in task.containers:
                if container.id == container_id:
                    if version == "v2" and rest.startswith("credentials/") and task.message.role:
                        return 200, self._credentials(task.message)
                    if version == "v4" and what in ("", "task"):
                        return 200, task.metadata(None if what else container)
        return 404, {"message": "not found"}

    def _step(self) -> None:
        now = time.monotonic()
        if self.dropped:
            self._set_connected(False)
            return
        for task in self._all():
            task.supervise(now=now)
        if not ACTIVE_FAULTS.faults.container_agents_connect or self._deregistered:
            self._set_connected(False)
            return
        if not self._arn:
            self._register()
        if not self._connected:
            self._client.discover_poll_endpoint(cluster=self._cluster, containerInstance=self._arn)
        try:
            messages = agent_messages.poll(self._arn, access_key=self._host.access_key or "")
        except InactiveInstanceError:
            # Its containers run on, unobserved; only a new agent would register the instance again.
            _log.info("%s is not registered any more", self._instance_id)
            self._deregistered = True
            return
        self._set_connected(True)
        self._follow(messages)
        self._report()

    def _set_connected(self, connected: bool) -> None:
        if self._connected != connected:
            self._connected = connected
            agent_messages.connect(self._arn, connected=connected)

    def _register(self) -> None:
        attributes = json.loads(self._config.get("ECS_INSTANCE_ATTRIBUTES") or "{}")
        if not isinstance(attributes, dict):
            raise ValueError(f"ECS_INSTANCE_ATTRIBUTES must be a JSON object, got {attributes}")
        cpus, memory, gpus = resources_of(self._instance_type)
        answer = self._client.register_container_instance(
            cluster=self._cluster,
            instanceIdentityDocument=json.dumps({"instanceId": self._instance_id, "region": self._region}),
            totalResources=[
                {"name": "CPU", "type": "INTEGER", "integerValue": 1024 * cpus},
                {"name": "MEMORY", "type": "INTEGER", "integerValue": int(memory * MEMORY_SHARE)},
                {"name": "PORTS", "type": "STRINGSET", "stringSetValue": list(RESERVED_PORTS)},
                {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
            ],
            attributes=[{"name": name, "value": str(value)} for name, value in attributes.items()],
            platformDevices=[{"id": gpu, "type": "GPU"} for gpu in self._gpus(gpus)],
            versionInfo={"agentVersion": "1.105.1", "agentHash": "local", "dockerVersion": "local"},
        )
        self._arn = str(answer["containerInstance"]["containerInstanceArn"])
        _log.info("%s registered in %s with %d GPUs", self._instance_id, self._cluster, gpus)

    def _gpus(self, count: int) -> list[str]:
        """Make the ids of the instance's GPUs; the AMI for GPUs switches their support on."""
        if self._config.get("ECS_ENABLE_GPU_SUPPORT", "true") != "true":
            return []
        return [f"GPU-{uuid.uuid5(uuid.NAMESPACE_URL, f'{self._instance_id}/{number}')}" for number in range(count)]

    def _follow(self, messages: list[TaskMessage]) -> None:
        told = {message.arn: message for message in messages}
        for arn in [arn for arn, task in self._tasks.items() if arn not in told and task.status == STOPPED]:
            del self._tasks[arn]
        for arn, message in told.items():
            task = self._tasks.get(arn)
            if task is None:
                task = self._tasks[arn] = EcsTask(message, self._host)
            task.message = message
            if message.desired_status == STOPPED:
                task.stop()
            elif task.status == PENDING and self._may_start(message):
                with self._starting:
                    if not self._stopping.is_set():
                        task.start(pull=self._pull)

    def _may_start(self, message: TaskMessage) -> bool:
        """Whether to start a task; an agent of a node that shall not start leaves its task pending."""
        is_node = any(runs_agent(message, definition) for definition in message.containers)
        return ACTIVE_FAULTS.faults.agents_start or not is_node

    def _pull(self, image: str) -> str:
        # Developer Guide, ECS_IMAGE_PULL_BEHAVIOR: all behaviours but `always` can do with a cached image.
        cached = image in self._images and self._config.get("ECS_IMAGE_PULL_BEHAVIOR") != "always"
        if not cached and not ACTIVE_FAULTS.faults.images_pull:
            return (
                f"CannotPullContainerError: Error response from daemon: pull access denied for {image}, repository "
                "does not exist or may require 'docker login'"
            )
        self._images.add(image)
        return ""

    def _report(self) -> None:
        """Tell ECS what has changed since the last report."""
        for arn, task in self._tasks.items():
            if task.status == task.reported:
                continue
            containers = [self._state(container) for container in task.containers]
            if not containers:
                status = {"status": task.status, "reason": task.reason}
                containers = [{"containerName": each["name"], **status} for each in task.message.containers]
            for state in containers:
                self._client.submit_container_state_change(cluster=self._cluster, task=arn, **state)
            times = {"pullStartedAt": task.pull_began_at, "pullStoppedAt": task.pulled_at}
            self._client.submit_task_state_change(
                cluster=self._cluster,
                task=arn,
                status=task.status,
                reason=task.reason,
                containers=containers,
                **{name: moment for name, moment in times.items() if moment is not None},
            )
            task.reported = task.status

    def _state(self, container: Container) -> dict[str, Any]:
        if container.exit_code is None:
            return {"containerName": container.name, "status": RUNNING, "runtimeId": container.id}
        return {
            "containerName": container.name,
            "status": STOPPED,
            "runtimeId": container.id,
            "exitCode": container.exit_code,
        }

    def _credentials(self, message: TaskMessage) -> dict[str, str]:
        """Return the credentials of a task's role; the session is named after the task."""
        if message.arn not in self._keys:
            self._keys[message.arn] = PRINCIPALS.assume(
                message.role, region=self._region, session=message.id, caller=self._instance_id
            )
        expires = datetime.now(UTC) + timedelta(hours=CREDENTIALS_HOURS)
        return {
            "RoleArn": message.role,
            "AccessKeyId": self._keys[message.arn],
            "SecretAccessKey": "local",
            "Token": "local",
            "Expiration": expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    def _all(self) -> list[EcsTask]:
        return list(self._tasks.values())
