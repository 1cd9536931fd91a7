"""One ECS task on its instance: its containers, from the pull of their images to their end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from horovod_local.corrections.ecs.agent_messages import TaskMessage
from horovod_local.corrections.ecs.tasks import PENDING, RUNNING, STOPPED
from horovod_local.instances.container import Container, ContainerHost


class EcsTask:
    """
    A task that ECS has placed on an instance.

    Args:
        message: What ECS said of it.
        host: The instance.
    """

    def __init__(self, message: TaskMessage, host: ContainerHost) -> None:
        self.message = message
        self.status = PENDING
        """What the container agent knows of it: `PENDING`, `RUNNING` or `STOPPED`."""
        self.reported = PENDING
        """What ECS has been told of it."""
        self.reason = ""
        """Why it stopped, if it never ran."""
        self.pull_began_at: datetime | None = None
        self.pulled_at: datetime | None = None
        self.containers: list[Container] = []
        self._host = host

    def start(self, *, pull: Callable[[str], str]) -> None:
        """
        Pull the images and start the containers.

        Args:
            pull: Pulls an image, and returns why it could not; '' if it could.
        """
        self.pull_began_at = datetime.now(UTC)
        for definition in self.message.containers:
            self.reason = pull(definition["image"])
            if self.reason:
                self.status = STOPPED
                return
        self.pulled_at = datetime.now(UTC)
        self.containers = [Container(self._host, self.message, definition) for definition in self.message.containers]
        self.status = RUNNING

    def fail(self, reason: str) -> None:
        """End a task that has not started."""
        self.status, self.reason = STOPPED, reason

    def stop(self) -> None:
        """Ask the containers to stop; a task without any has stopped."""
        for container in self.containers:
            container.stop()
        if not self.containers:
            self.status = STOPPED

    def supervise(self, *, now: float) -> None:
        """Note what has become of the containers; if an essential one ends, all of them end."""
        for container in self.containers:
            container.supervise(now=now)
        if any(container.essential and container.exit_code is not None for container in self.containers):
            self.stop()
        if self.containers and all(container.exit_code is not None for container in self.containers):
            self.status = STOPPED

    def metadata(self, container: Container | None = None) -> dict[str, Any]:
        """Describe the task, or one of its containers, as the task metadata endpoint does."""
        if container is not None:
            return self._describe(container)
        cluster = self.message.arn.split("/")[1]
        return {
            "Cluster": cluster,
            "TaskARN": self.message.arn,
            "Family": self.message.family,
            "Revision": str(self.message.revision),
            "ServiceName": self.message.service,
            "DesiredStatus": self.message.desired_status,
            "KnownStatus": self.status,
            "PullStartedAt": _text(self.pull_began_at),
            "PullStoppedAt": _text(self.pulled_at),
            "LaunchType": "EC2",
            "Containers": [self._describe(each) for each in self.containers],
        }

    def _describe(self, container: Container) -> dict[str, Any]:
        ended = {} if container.exit_code is None else {"ExitCode": container.exit_code}
        return {
            "DockerId": container.id,
            "Name": container.name,
            "DockerName": f"ecs-{self.message.family}-{self.message.revision}-{container.name}-{container.id[:20]}",
            "Image": container.image,
            # No image is pulled, so this is no digest of one; it differs for each name, as a digest would.
            "ImageID": f"sha256:{hashlib.sha256(container.image.encode()).hexdigest()}",
            "DesiredStatus": self.message.desired_status,
            "KnownStatus": RUNNING if container.exit_code is None else STOPPED,
            "CreatedAt": _text(container.started_at),
            "StartedAt": _text(container.started_at),
            "Type": "NORMAL",
            "ContainerARN": self.message.container_arns[container.name],
            "Networks": [{"NetworkMode": self.message.network_mode}],
            **ended,
        }


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
