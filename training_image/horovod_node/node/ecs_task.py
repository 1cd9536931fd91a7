"""
The agent as a container of an ECS task: its environment, and what ECS tells about the task.

Source: Amazon ECS Developer Guide, "Amazon ECS task metadata endpoint version 4" and "… version 4 JSON response".
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from horovod_node import contract
from horovod_node.node.boot_facts import BootFacts

METADATA_VARIABLE: Final = "ECS_CONTAINER_METADATA_URI_V4"
_REQUEST_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


def instance_environment(file: Path = Path(contract.NODE_ENV_FILE)) -> dict[str, str]:
    """
    Read the variables that user data wrote for this instance's container; there are none without the file.

    A task definition is one text for all instances, so the file is mounted. Its lines are those of `docker run
    --env-file`: `NAME=value`, without quotes.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name: value for name, equals, value in pairs if equals}


def task_facts(environment: Mapping[str, str], *, kernel: Path = Path("/proc/stat")) -> BootFacts:
    """
    Ask ECS about the task. What it does not tell is unknown, because nothing here may fail a run.

    Args:
        environment: The process's environment variables.
        kernel: The kernel's statistics, of the instance in a container, too (proc(5), `btime`).
    """
    given = BootFacts.of(environment)
    task = _task(environment.get(METADATA_VARIABLE, ""))
    containers = task.get("Containers") or [{}]
    return BootFacts(
        booted_at=given.booted_at or _booted_at(kernel),
        pull_began_at=given.pull_began_at or _time(task.get("PullStartedAt")),
        pulled_at=given.pulled_at or _time(task.get("PullStoppedAt")),
        image=given.image or str(containers[0].get("Image", "")),
        container=str(task.get("TaskARN", "")).rpartition("/")[2],
    )


def _task(endpoint: str) -> dict[str, Any]:
    if not endpoint:
        return {}
    # A proxy named in the environment cannot reach a link-local address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint}/task", timeout=_REQUEST_SECONDS) as response:
            task: dict[str, Any] = json.load(response)
    except (OSError, ValueError) as error:
        _log.warning("ECS tells nothing about this task: %s", error)
        return {}
    return task


def _booted_at(kernel: Path) -> float | None:
    try:
        lines = kernel.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.removeprefix("btime ")) for line in lines if line.startswith("btime ")), None)


def _time(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
