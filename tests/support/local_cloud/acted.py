"""Instances acted by shell commands: a test puts them into the user data, and looks at what runs."""

from __future__ import annotations

import base64
from typing import Any

from horovod_local.instances.processes import processes_with
from horovod_node import contract
from support.waiting import eventually


def user_data(command: str, *, switch: str | None = None) -> str:
    """User data of an instance that is a node, whose agent runs *command* instead, and whose switch is *switch*."""
    script = f"""#!/bin/bash
cat > '{contract.NODE_ENV_FILE}' <<'NODE_ENV'
{contract.ENV_ENGINE}={contract.ENGINE_EC2}
{contract.ENV_FLEET}=the fleet
AWS_REGION=eu-west-1
TEST_COMMAND={command}
NODE_ENV
docker run nothing
"""
    if switch is not None:
        script += f"cat > '{contract.SWITCH_FILE}' <<'SWITCH'\n{switch}\nSWITCH\n"
    return base64.b64encode(script.encode()).decode()


def started(cloud: Any, fleet: Any, count: int = 1) -> list[Any]:
    """Wait until *count* of the fleet's instances have an agent."""
    found: list[Any] = eventually(
        lambda: [item for item in cloud.instances() if item.group == fleet.name and item.pid],
        lambda items: len(items) == count,
    )
    return found


def processes(instance: Any) -> list[int]:
    """What runs on the instance."""
    return list(processes_with(contract.ENV_NODE_ID, instance.instance_id))
