"""Processes of the local cloud: their environment, by which they are also found, stopped and killed."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

CLOUD_VARIABLE: Final = "CDK_HOROVOD_LOCAL_CLOUD"
"""Environment variable of every node's processes: the endpoint of their cloud."""

_PROCESSES: Final = Path("/proc")


def cloud_environment(endpoint: str, *, access_key: str | None) -> dict[str, str]:
    """
    Return the AWS environment variables that select a local cloud and its credentials.

    Args:
        endpoint: URL of the local cloud.
        access_key: Id of an access key of that cloud. None: no credentials.
    """
    credentials = {} if access_key is None else {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": "local"}
    return {
        "AWS_ENDPOINT_URL": endpoint,
        **credentials,
        "AWS_EC2_METADATA_DISABLED": "true",
        # The user's own profiles could have real credentials and endpoints.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def without_aws(environment: Mapping[str, str]) -> dict[str, str]:
    """Return *environment* without variables that could select a real account or another local cloud."""
    return {
        name: value for name, value in environment.items() if not name.startswith(("AWS_", "MOTO_", "CDK_HOROVOD_"))
    }


def processes_with(name: str, value: str) -> Iterator[int]:
    """Yield the ids of the processes with *name*=*value* in their environment, in whatever session they are."""
    wanted = f"{name}={value}".encode()
    for folder in _PROCESSES.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
        except OSError:
            # The process has ended, or belongs to another user.
            continue


def kill_processes_with(name: str, value: str) -> None:
    """Kill the processes with *name*=*value* in their environment, and those that they start meanwhile."""
    while found := list(processes_with(name, value)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def stop_processes_with(name: str, value: str) -> None:
    """Stop (SIGSTOP) the processes with *name*=*value* in their environment, and those that they start meanwhile."""
    stopped: set[int] = set()
    while found := set(processes_with(name, value)) - stopped:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped |= found
