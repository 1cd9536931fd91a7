"""Processes of the local cloud: the environment that they get, and how they are found and ended by it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

CLOUD_VARIABLE: Final = "CDK_HOROVOD_LOCAL_CLOUD"
"""In the environment of every node's processes: the address of the cloud that they belong to."""

_PROCESSES: Final = Path("/proc")


def fake_credentials(endpoint: str, *, access_key: str | None) -> dict[str, str]:
    """
    Name the local cloud, and credentials that are good for nothing else, as AWS's own variables.

    Args:
        endpoint: Address of the local cloud.
        access_key: Id of the access key; none: no credentials.
    """
    credentials = {} if access_key is None else {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": "local"}
    return {
        "AWS_ENDPOINT_URL": endpoint,
        **credentials,
        "AWS_EC2_METADATA_DISABLED": "true",
        # A profile of the user's own would bring real credentials and endpoints along.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out everything that could lead to a real account, or to another local cloud."""
    return {
        name: value for name, value in environment.items() if not name.startswith(("AWS_", "MOTO_", "CDK_HOROVOD_"))
    }


def processes_with(name: str, value: str) -> Iterator[int]:
    """Find the processes that have *name*=*value* in their environment, whatever session they have moved to."""
    wanted = f"{name}={value}".encode()
    for folder in _PROCESSES.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            # Ended meanwhile, or another user's.
            continue


def kill_processes_with(name: str, value: str) -> None:
    """Kill the processes that have *name*=*value* in their environment, and those that they start meanwhile."""
    while found := list(processes_with(name, value)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stop_processes_with(name: str, value: str) -> None:
    """Stop the processes that have *name*=*value* in their environment, and those that they start meanwhile."""
    stopped: set[int] = set()
    while found := set(processes_with(name, value)) - stopped:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= found
