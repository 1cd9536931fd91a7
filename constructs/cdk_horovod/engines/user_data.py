"""
User data that turns an EC2 instance into a node at its first boot.

It is `node_boot.sh`, which installs `dead_mans_switch.sh`, followed by one of two ends: `run_container.sh` or
`join_cluster.sh`.

The scripts are separate files, so that they can be checked and run as shell scripts. Image URI and values may be CDK
tokens, which are inserted unchanged and which CloudFormation resolves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from horovod_node import contract

REGION: Final = "AWS_REGION"
CONTAINER_INSTANCE_ML_ROOT: Final = "/var/lib/cdk-horovod/ml"
"""Folder of every container instance that a task mounts at `contract.DEFAULT_ML_ROOT`."""

_NEEDED: Final = (REGION, contract.ENV_LEDGER_TABLE, contract.ENV_FLEET, contract.ENV_LEASE_SECONDS)
"""Variables that the dead-man's switch needs to find its run."""
_SCRIPT: Final = Path(__file__).with_name("node_boot.sh")
_RUN_CONTAINER: Final = Path(__file__).with_name("run_container.sh")
_JOIN_CLUSTER: Final = Path(__file__).with_name("join_cluster.sh")
_SWITCH: Final = Path(__file__).with_name("dead_mans_switch.sh")
_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]*")
# One line of printable ASCII without characters that a shell or an env file interprets as quoting. CDK tokens match.
_VALUE: Final = re.compile(r"[^\x00-\x1f\x7f-\U0010ffff'\"\\`]*")
# The agent reads lists and objects as JSON, which has double quotes.
_AGENT_VALUE: Final = re.compile(r"[^\x00-\x1f\x7f-\U0010ffff'\\`]*")
_ADDRESS: Final = re.compile(r"[^\x00-\x20\x7f-\U0010ffff'\"\\`]+")


def node_user_data(*, image_uri: str, environment: Mapping[str, str], log_group_name: str | None) -> list[str]:
    """
    Return the commands that start the node's container, one line each, for `ec2.UserData.for_linux().add_commands`.

    The commands start the dead-man's switch first. If the image is in ECR, they then log in to the registry with the
    instance's role. A failed step is named on the instance's console, and the instance stays up until the run's time
    limit or the switch terminates it. The AMI must have systemd, Docker, the NVIDIA container toolkit and the AWS CLI;
    an instance without the CLI reads no lease, and its switch shuts it down.

    Args:
        image_uri: Image to start, in the form that `docker pull` takes.
        environment: The node's environment, written to `contract.NODE_ENV_FILE`. It must have `AWS_REGION`, the
            ledger's table, the fleet, and the seconds that an instance runs without a valid lease.
        log_group_name: CloudWatch log group for the container's output, in the same Region; the log stream is the
            instance's id. `None`: Docker keeps the output on the instance.

    Raises:
        ValueError: If a name or value cannot be inserted into the script unchanged, or one of the four is missing.
    """
    _check("image_uri", image_uri, _ADDRESS, "one word without quotes")
    if log_group_name is not None:
        _check("log_group_name", log_group_name, _ADDRESS, "one word without quotes, or None")
    return _commands(
        _RUN_CONTAINER,
        environment=environment,
        words={"IMAGE": image_uri, "LOG_GROUP": log_group_name or "", "HOST_ML_ROOT": contract.DEFAULT_ML_ROOT},
    )


def container_instance_user_data(*, environment: Mapping[str, str], agent_config: Mapping[str, str]) -> list[str]:
    """
    Return the commands that let the instance join a cluster of Amazon ECS, whose agent then starts the node's task.

    They do the same as those of `node_user_data` but for the container. The AMI must have systemd, the agent of ECS
    with support for GPUs, and the AWS CLI or a repository to install it from.

    Args:
        environment: See `node_user_data`.
        agent_config: The agent's configuration, written to `/etc/ecs/ecs.config`.

    Raises:
        ValueError: See `node_user_data`.
    """
    for name, value in agent_config.items():
        _check("agent_config", name, _NAME, "named in capital letters, digits and '_'")
        _check(f"agent_config[{name}]", value, _AGENT_VALUE, 'one line of printable ASCII without "\'" or backslashes')
    return _commands(
        _JOIN_CLUSTER,
        environment=environment,
        words={
            "AGENT_CONFIG": _lines(agent_config),
            "HOST_ML_ROOT": CONTAINER_INSTANCE_ML_ROOT,
            "PART_OVER_FILE": contract.PART_OVER_FILE,
        },
    )


def _commands(end: Path, *, environment: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    missing = [name for name in _NEEDED if name not in environment]
    if missing:
        raise ValueError(f"'environment' must name {', '.join(missing)}, got {', '.join(environment) or 'nothing'}")
    for name, value in environment.items():
        _check("environment", name, _NAME, "named in capital letters, digits and '_'")
        _check(f"environment[{name}]", value, _VALUE, "one line of printable ASCII without quotes or backslashes")
    every_word = {
        "REGION": environment[REGION],
        "LEDGER_TABLE": environment[contract.ENV_LEDGER_TABLE],
        "FLEET": environment[contract.ENV_FLEET],
        "NODE_ENV_FILE": contract.NODE_ENV_FILE,
        "SWITCH_FILE": contract.SWITCH_FILE,
        "EXIT_PART_OVER": str(contract.EXIT_PART_OVER),
        "DEAD_MANS_SWITCH": without_comments(_SWITCH.read_text(encoding="utf-8")).rstrip("\n"),
        "ENVIRONMENT": _lines(environment),
        "ML_ROOT": contract.DEFAULT_ML_ROOT,
        **words,
    }
    # Without the scripts' shebangs: `UserData.for_linux` adds its own.
    scripts = (without_comments(script.read_text(encoding="utf-8")).partition("\n")[2] for script in (_SCRIPT, end))
    # In one pass, so that a placeholder within a value is not replaced.
    return re.sub(r"@([A-Z_]+)@", lambda word: every_word[word[1]], "".join(scripts)).splitlines()


def _lines(variables: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in variables.items())


def without_comments(script: str) -> str:
    """Remove comment lines, except the first line: EC2 accepts at most 16 KB of user data."""
    first, *lines = script.splitlines(keepends=True)
    return first + "".join(line for line in lines if not line.lstrip().startswith("#"))


def _check(argument: str, value: str, pattern: re.Pattern[str], rule: str) -> None:
    if not pattern.fullmatch(value):
        raise ValueError(f"'{argument}' must be {rule}, got {value!r}")
