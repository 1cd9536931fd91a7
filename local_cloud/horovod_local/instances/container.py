"""
One container of an ECS task: a process of this machine, with the mounts and the environment of its definition.

Images are not run. A container that mounts the folder of `contract.NODE_ENV_FILE` is a node's, and runs the agent; in
place of every other container a process waits until it is stopped.

Sources: Amazon ECS Developer Guide, "Amazon ECS task definition parameters" (mount points, `stopTimeout`), "Task IAM
role" (container credentials), "Task metadata endpoint version 4" and "Amazon ECS task definitions for GPU workloads"
(`NVIDIA_VISIBLE_DEVICES`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from horovod_local.corrections.ecs.agent_messages import TaskMessage
from horovod_local.instances import opt_ml
from horovod_local.instances.processes import cloud_environment, kill_processes_with
from horovod_node import contract

CONTAINER_VARIABLE: Final = "CDK_HOROVOD_LOCAL_CONTAINER"
"""Environment variable of a container's processes, with the container's id: they end with its first process."""
STOP_SECONDS: Final = 30
"""Default of `stopTimeout`: `ECS_CONTAINER_STOP_TIMEOUT` of the container agent."""

_NODE_FOLDER: Final = str(Path(contract.NODE_ENV_FILE).parent)
_STAND_IN: Final = ("sleep", "infinity")


@dataclass(frozen=True, kw_only=True)
class ContainerHost:
    """
    The instance on which containers run.

    Args:
        folder: Folder of the instance; `host` in it stands for the root of its file system.
        log: File with the output of the node's container; other containers' files are beside it.
        node: Variables that the user data wrote to `contract.NODE_ENV_FILE`; None if it wrote none.
        environment: Variables of every process of the instance, without credentials.
        access_key: Id of the access key of the instance's role; None if it has none.
        endpoint: URL of the local cloud.
        task_endpoint: URL at which containers of this instance find credentials and metadata of their task.
        python: Python interpreter of the agent.
        own_mounts: Whether a container's folders can be mounted; otherwise the agent gets paths and variables.
    """

    folder: Path
    log: Path
    node: Mapping[str, str] | None
    environment: Mapping[str, str]
    access_key: str | None
    endpoint: str
    task_endpoint: str
    python: str
    own_mounts: bool

    def path(self, on_host: str) -> Path:
        """Return where a path of the instance's file system is on this machine."""
        return self.folder / "host" / on_host.lstrip("/")


class Container:
    """
    A running container.

    Args:
        host: The instance.
        message: Its task.
        definition: Its definition, as in the API.
    """

    def __init__(self, host: ContainerHost, message: TaskMessage, definition: Mapping[str, Any]) -> None:
        self.id = uuid.uuid4().hex
        self.name = str(definition["name"])
        self.image = str(definition["image"])
        self.essential = bool(definition.get("essential", True))
        self.started_at = datetime.now(UTC)
        self.exit_code: int | None = None
        """Exit code as Docker gives it; None while the container runs."""
        self._stop_seconds = float(definition.get("stopTimeout") or STOP_SECONDS)
        self._kill_at: float | None = None
        self._process = _start(host, message, definition, self.id)

    @property
    def pid(self) -> int:
        """Process id, and process group, of its first process."""
        return self._process.pid

    def supervise(self, *, now: float) -> None:
        """Note whether it has ended, and kill what is left of it, or of one that does not stop in time."""
        if self.exit_code is not None:
            return
        if self._kill_at is not None and now >= self._kill_at:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        code = self._process.poll()
        if code is not None:
            # Docker: 128 and the number of the signal.
            self.exit_code = code if code >= 0 else 128 - code
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            kill_processes_with(CONTAINER_VARIABLE, self.id)

    def stop(self) -> None:
        """Send SIGTERM to its first process, as Docker does; `supervise` kills it when `stopTimeout` is over."""
        if self._kill_at is None and self.exit_code is None:
            self._kill_at = time.monotonic() + self._stop_seconds
            self._process.terminate()

    def wait(self) -> None:
        """Wait for its first process, which has been killed."""
        self._process.wait()


def runs_agent(message: TaskMessage, definition: Mapping[str, Any]) -> bool:
    """Whether a container is a node's."""
    return any(message.volumes.get(mount["sourceVolume"]) == _NODE_FOLDER for mount in _mounts(definition))


def _start(
    host: ContainerHost, message: TaskMessage, definition: Mapping[str, Any], container_id: str
) -> subprocess.Popen[bytes]:
    is_node = runs_agent(message, definition)
    environment = {
        **host.environment,
        CONTAINER_VARIABLE: container_id,
        **{item["name"]: item["value"] for item in definition.get("environment") or ()},
        **_from_ecs(host, message, definition, container_id),
    }
    command: Sequence[str] = _STAND_IN
    if is_node:
        command, variables = _node_command(host, message, definition, container_id)
        environment |= variables
    log = host.log if is_node else host.log.with_name(f"{definition['name']}.log")
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=host.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _from_ecs(
    host: ContainerHost, message: TaskMessage, definition: Mapping[str, Any], container_id: str
) -> dict[str, str]:
    """Return the variables that the container agent sets, and the credentials that the SDKs find."""
    gpus = message.gpus.get(definition["name"], ())
    # Without a task role the SDKs use the instance's, which instance metadata gives to containers, too.
    key = None if message.role else host.access_key
    return {
        **cloud_environment(host.endpoint, access_key=key),
        "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
        "ECS_CONTAINER_METADATA_URI_V4": f"{host.task_endpoint}/v4/{container_id}",
        **(
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{host.task_endpoint}/v2/credentials/{container_id}"}
            if message.role
            else {}
        ),
        **({"NVIDIA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}),
        contract.ENV_NODE_GPUS: str(len(gpus)),
    }


def _node_command(
    host: ContainerHost, message: TaskMessage, definition: Mapping[str, Any], container_id: str
) -> tuple[Sequence[str], dict[str, str]]:
    """Return the command of the agent with its mounts, and the variables that it needs where nothing is mounted."""
    folders = {
        mount["containerPath"].rstrip("/"): (
            host.path(message.volumes.get(mount["sourceVolume"]) or f"volumes/{mount['sourceVolume']}"),
            bool(mount.get("readOnly")),
        )
        for mount in _mounts(definition)
    }
    # What is not mounted belongs to the container alone, and ends with it.
    folders.setdefault(contract.DEFAULT_ML_ROOT, (host.folder / "containers" / container_id / "ml", False))
    for folder, _ in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    ml_root = folders[contract.DEFAULT_ML_ROOT][0]
    link = host.folder / "ml"
    link.unlink(missing_ok=True)
    link.symlink_to(ml_root)
    command: Sequence[str] = [host.python, "-m", "horovod_node"]
    if not host.own_mounts:
        return command, {**(host.node or {}), contract.ENV_ML_ROOT: str(ml_root)}
    for target, (folder, read_only) in folders.items():
        command = opt_ml.command(folder, command, at=target, read_only=read_only)
    return command, {}


def _mounts(definition: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return definition.get("mountPoints") or ()
