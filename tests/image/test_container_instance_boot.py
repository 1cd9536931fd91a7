"""User data of a container instance of ECS, run in a root file system: what it would start, word by word."""

from __future__ import annotations

import pytest

from cdk_horovod.engines.user_data import CONTAINER_INSTANCE_ML_ROOT, container_instance_user_data
from horovod_node import contract
from support.image.instance import Instance
from support.waiting import eventually

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    contract.ENV_ENGINE: contract.ENGINE_ECS,
    contract.ENV_LEDGER_TABLE: "Ledger-1AB",
    contract.ENV_FLEET: "c8a1 $HOME",
    contract.ENV_LEASE_SECONDS: "600",
    "AWS_REGION": "eu-west-1",
}
CONFIG = {"ECS_CLUSTER": "team", "ECS_INSTANCE_ATTRIBUTES": '{"cdk-horovod.fleet": "$HOME"}'}
USER_DATA = container_instance_user_data(environment=ENVIRONMENT, agent_config=CONFIG)
SET_SWITCH = [
    ["systemctl", "daemon-reload"],
    ["systemctl", "enable", "--now", "cdk-horovod-dead-mans-switch.service"],
]
NO_UNIT = ["systemctl", "cat", "dlami-nvme.service"]
WAIT_FOR_ITS_PART = [
    ["systemctl", "daemon-reload"],
    ["systemctl", "start", "cdk-horovod-part-over.path"],
]
INSTALL_CLI = ["dnf", "install", "--quiet", "--assumeyes", "awscli-2"]
JOINS = "cdk-horovod: node joins its cluster\n"


def config(instance: Instance) -> str | None:
    """Read what the agent of ECS would read; None if there is nothing."""
    file = instance.changes / "etc/ecs/ecs.config"
    return file.read_text() if file.exists() else None


def test_joins_its_cluster(instance: Instance) -> None:
    """The whole boot, call by call: it starts no container itself, and the agent finds its cluster."""
    # WHEN
    booted = instance.boot(USER_DATA)
    # THEN
    assert (booted.returncode, booted.stderr) == (0, JOINS)
    assert instance.recorded() == [*SET_SWITCH, NO_UNIT, *WAIT_FOR_ITS_PART]
    assert config(instance) == "".join(f"{name}={value}\n" for name, value in CONFIG.items())
    written = instance.changes.joinpath(contract.NODE_ENV_FILE[1:]).read_text()
    assert written == "".join(f"{name}={value}\n" for name, value in ENVIRONMENT.items())


def test_instance_leaves_when_its_task_says_so(instance: Instance) -> None:
    """systemd starts the switch, which terminates the instance, when the agent has left its file."""
    instance.boot(USER_DATA)

    units = instance.changes / "etc/systemd/system"
    assert (
        f"\nExecStart=/bin/bash {contract.SWITCH_FILE} leave\n" in (units / "cdk-horovod-part-over.service").read_text()
    )
    assert (units / "cdk-horovod-part-over.path").read_text() == (
        f"[Path]\nPathExists={CONTAINER_INSTANCE_ML_ROOT}/{contract.PART_OVER_FILE}\n"
    )


def test_gives_a_sign_while_ecs_pulls(instance: Instance) -> None:
    """People see the node boot, although its own agent comes with the image."""
    instance.boot(USER_DATA)

    assert eventually(lambda: ["aws", "dynamodb", "put-item"] in [call[:3] for call in instance.signs()])


def test_task_finds_its_folder(instance: Instance) -> None:
    """The folder that the task definition names is there, for the image's user to write."""
    booted = instance.boot(
        USER_DATA, after=f"setpriv --reuid=1000 --clear-groups mkdir -p {CONTAINER_INSTANCE_ML_ROOT}/input && echo can"
    )

    assert booted.stdout == "can\n"


def test_task_finds_the_volume_that_the_ami_mounted(instance: Instance) -> None:
    """Where an AMI mounts the instance store elsewhere, the task's folder is in it all the same."""
    # GIVEN
    instance.changes.joinpath("units/dlami-nvme.service").touch()
    instance.changes.joinpath("opt/dlami/nvme").mkdir(parents=True)

    # WHEN
    booted = instance.boot(
        USER_DATA,
        before="mount -t tmpfs none /opt/dlami/nvme",
        after=f"touch /opt/dlami/nvme/ml/there && ls {CONTAINER_INSTANCE_ML_ROOT}; "
        f"stat --format=%a {CONTAINER_INSTANCE_ML_ROOT}",
    )

    # THEN
    assert (booted.stdout, booted.stderr) == ("there\n1777\n", JOINS)


def test_installs_the_cli_where_the_ami_has_none(instance: Instance) -> None:
    """The dead-man's switch needs the AWS CLI, so it is installed before the instance joins."""
    # GIVEN
    (instance.changes / "usr/local/bin/aws").unlink()
    instance.fail("dnf", "install", times=1)

    # WHEN
    booted = instance.boot(USER_DATA)

    # THEN
    assert booted.returncode == 0
    assert instance.recorded() == [
        *SET_SWITCH,
        NO_UNIT,
        INSTALL_CLI,
        ["sleep", "2"],
        INSTALL_CLI,
        *WAIT_FOR_ITS_PART,
    ]


def test_joins_nothing_when_it_cannot_start(instance: Instance) -> None:
    """After a failure the agent finds no cluster, so that ECS places no task on an instance without its switch."""
    # GIVEN
    (instance.changes / "usr/local/bin/aws").unlink()
    instance.fail("dnf", "install", times=9)

    # WHEN
    booted = instance.boot(USER_DATA)

    # THEN
    assert booted.returncode == 1
    assert booted.stderr.splitlines()[-1] == (
        "cdk-horovod: this node cannot start: could not install the AWS CLI in 5 tries"
    )
    assert config(instance) is None
