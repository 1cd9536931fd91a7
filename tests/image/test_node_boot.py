"""User data, run in a root file system: what it would start, word by word."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import cdk_horovod
from cdk_horovod.engines.user_data import node_user_data, without_comments
from horovod_node import contract
from horovod_node.ledger.table import item_key
from support.image.instance import Instance

pytestmark = pytest.mark.slow

REGISTRY = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
IMAGE = f"{REGISTRY}/node:1"
ENVIRONMENT = {
    contract.ENV_ENGINE: contract.ENGINE_EC2,
    contract.ENV_LEDGER_TABLE: "Ledger-1AB",
    contract.ENV_FLEET: "c8a1 $HOME",
    contract.ENV_LEASE_SECONDS: "600",
    "AWS_REGION": "eu-west-1",
}
SET_SWITCH = [
    ["systemctl", "daemon-reload"],
    ["systemctl", "enable", "--now", "cdk-horovod-dead-mans-switch.service"],
]
NO_UNIT = ["systemctl", "cat", "dlami-nvme.service"]
START_DOCKER = ["systemctl", "start", "docker.service"]
LOGIN = [
    ["aws", "ecr", "get-login-password", "--region", "eu-west-1"],
    ["docker", "login", "--username", "AWS", "--password-stdin", REGISTRY],
]
PULL = ["docker", "pull", "--quiet", IMAGE]
WAIT_FOR_ITS_PART = [
    ["systemctl", "daemon-reload"],
    ["systemctl", "start", "cdk-horovod-part-over.service"],
]


def inspect(image: str = IMAGE) -> list[str]:
    """Spell the call that asks for the image's digest."""
    return ["docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", image]


def user_data(*, image_uri: str = IMAGE, log_group_name: str | None = None) -> list[str]:
    """Render a fleet's user data."""
    return node_user_data(image_uri=image_uri, environment=ENVIRONMENT, log_group_name=log_group_name)


def run_call(
    *,
    image: str = IMAGE,
    digest: str = f"{REGISTRY}/node@sha256:0123",
    ml_root: str = "/opt/ml",
    efa: str = "",
    logs: str = "",
) -> list[str]:
    """Spell the call that starts the node."""
    boot = (
        f"--env CDK_HOROVOD_BOOTED_AT=TIME --env CDK_HOROVOD_IMAGE={digest} "
        "--env CDK_HOROVOD_PULL_BEGAN_AT=TIME --env CDK_HOROVOD_PULLED_AT=TIME"
    )
    return (
        "docker run --detach --name cdk-horovod-node --restart no --gpus all --network host --ipc host "
        "--ulimit memlock=-1 --ulimit stack=67108864 "
        "--security-opt no-new-privileges --cap-drop ALL --pids-limit 65536 "
        f"{efa} {boot} --env-file {contract.NODE_ENV_FILE} "
        f"--volume {ml_root}:/opt/ml {logs} {image}"
    ).split()


@pytest.fixture
def disk(instance: Instance, tmp_path: Path) -> Iterator[Path]:
    """An instance-store disk of the instance, as udev links it: a loop device, for it is really formatted."""
    file = tmp_path / "disk"
    file.touch()
    os.truncate(file, 64 * 1024 * 1024)
    device = Path(
        subprocess.run(["losetup", "--find", "--show", file], capture_output=True, text=True, check=True).stdout.strip()
    )
    try:
        os.mknod(instance.changes / "dev" / device.name, mode=0o660 | 0o060000, device=device.stat().st_rdev)
        link = instance.changes / "dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_AWS1234567890ABCDEF"
        link.parent.mkdir(parents=True)
        link.symlink_to(f"../../{device.name}")
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_starts_the_node(instance: Instance) -> None:
    """From ECR, with a log group: the whole boot, call by call."""
    # WHEN
    booted = instance.boot(user_data(log_group_name="nodes"))

    # THEN
    logs = (
        "--log-driver awslogs --log-opt awslogs-region=eu-west-1 --log-opt awslogs-group=nodes "
        "--log-opt awslogs-stream=i-0123456789abcdef0 --log-opt mode=non-blocking"
    )
    assert (booted.returncode, booted.stderr) == (0, "cdk-horovod: node started\n")
    assert instance.recorded()[:4] == [*SET_SWITCH, NO_UNIT, START_DOCKER]
    assert sorted(instance.recorded()[4:6]) == LOGIN  # two ends of a pipe start together
    assert instance.recorded()[6:] == [PULL, inspect(), run_call(logs=logs), *WAIT_FOR_ITS_PART]
    assert (instance.changes / "received").read_text() == "a-password\n"


def test_writes_the_environment_as_given(instance: Instance) -> None:
    """The environment file holds the lines as they were given: the shell expands nothing in them."""
    instance.boot(user_data())

    written = instance.changes.joinpath(contract.NODE_ENV_FILE[1:]).read_text()
    assert written == "".join(f"{name}={value}\n" for name, value in ENVIRONMENT.items())


def test_sets_the_dead_mans_switch_first(instance: Instance) -> None:
    """The switch is whole on the instance and enabled, although everything after it fails."""
    # GIVEN
    instance.fail("systemctl", "start", times=1)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    switch = instance.changes / contract.SWITCH_FILE[1:]
    assert booted.returncode == 1
    script = (Path(cdk_horovod.__file__).with_name("engines") / "dead_mans_switch.sh").read_text()
    assert switch.read_text() == without_comments(script)
    assert instance.changes.joinpath("etc/systemd/system/cdk-horovod-dead-mans-switch.service").exists()
    assert instance.recorded() == [*SET_SWITCH, NO_UNIT, START_DOCKER]


def test_forgets_the_registry_password(instance: Instance) -> None:
    """Docker's login is not on the disk when user data ends."""
    instance.boot(user_data())

    assert list(instance.changes.joinpath("tmp").iterdir()) == []
    assert not instance.changes.joinpath("root/.docker").exists()


@pytest.mark.parametrize(
    ("image", "region"),
    [
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a/node@sha256:0123", "cn-north-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/node:1", "us-gov-west-1"),
        ("123456789012.dkr-ecr.eu-central-1.on.aws/node:1", "eu-central-1"),
    ],
)
def test_logs_in_to_every_form_of_ecr(instance: Instance, image: str, region: str) -> None:
    """Other partitions, FIPS and dual-stack addresses are ECR too, each in the region that its name says."""
    instance.boot(user_data(image_uri=image))

    assert sorted(instance.recorded()[4:6]) == [
        ["aws", "ecr", "get-login-password", "--region", region],
        ["docker", "login", "--username", "AWS", "--password-stdin", image.partition("/")[0]],
    ]


def test_needs_no_login_elsewhere(instance: Instance) -> None:
    """An image that is not in ECR is pulled without AWS's help, and without a log group Docker keeps the output."""
    image = "registry.example:5000/node:1"

    instance.boot(user_data(image_uri=image))

    pull = ["docker", "pull", "--quiet", image]
    digest = "registry.example:5000/node@sha256:0123"
    started = [pull, inspect(image), run_call(image=image, digest=digest), *WAIT_FOR_ITS_PART]
    assert instance.recorded() == [*SET_SWITCH, NO_UNIT, START_DOCKER, *started]


def test_tells_the_agent_how_the_machine_came_up(instance: Instance) -> None:
    """The kernel's start and both ends of the pull are in the container's environment, in that order."""
    # WHEN
    instance.boot(user_data())

    # THEN
    booted_at, pulled_at, pull_began_at = instance.boot_times()
    assert 1_700_000_000 < booted_at <= pull_began_at <= pulled_at


def test_image_without_a_digest_goes_by_its_name(instance: Instance) -> None:
    """An image that no registry gave has no digest: the receipt then names it as the construct does."""
    # GIVEN
    instance.fail("docker", "image", times=1)

    # WHEN
    instance.boot(user_data())

    # THEN
    assert instance.recorded()[-3] == run_call(digest=IMAGE)


def test_gives_a_sign_while_it_pulls(instance: Instance) -> None:
    """The run that holds the fleet has an item of this machine before its agent is there."""
    # WHEN
    instance.boot(user_data())

    # THEN
    look, *_, write = instance.signs()
    assert look[:3] == ["aws", "dynamodb", "get-item"]
    assert json.loads(look[look.index("--key") + 1]) == {"pk": {"S": "FLEET#c8a1 $HOME"}, "sk": {"S": "LEASE"}}
    item = json.loads(write[write.index("--item") + 1])
    seen_at = int(item["seen_at"]["N"])
    assert item == {
        **item_key(contract.boot_key("c8a1 $HOME", "Training/run-1/20261126T110236Z", "i-0123456789abcdef0")),
        contract.NODE: {"S": "i-0123456789abcdef0"},
        contract.STATE: {"S": "pulling the image"},
        contract.INSTANCE_TYPE: {"S": "g5.xlarge"},
        contract.ZONE: {"S": "eu-west-1a"},
        contract.BOOTED_AT: {"N": str(int(instance.boot_times()[0]))},
        contract.SEEN_AT: {"N": str(seen_at)},
        contract.TTL_ATTRIBUTE: {"N": str(seen_at + 86_400)},
    }


def test_boots_without_a_sign(instance: Instance) -> None:
    """A ledger that does not answer costs the node nothing."""
    # GIVEN
    instance.fail("aws", "dynamodb", times=9)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    assert (booted.returncode, booted.stderr) == (0, "cdk-horovod: node started\n")
    assert [call[:3] for call in instance.signs()] == [["aws", "dynamodb", "get-item"]]


@pytest.fixture
def adapters(instance: Instance) -> str:
    """Two EFA devices of the instance, as Docker is to be told of them."""
    devices = instance.changes / "dev/infiniband"
    devices.mkdir()
    for name in ("uverbs0", "uverbs1", "rdma_cm"):
        devices.joinpath(name).touch()
    return "--device /dev/infiniband/uverbs0 --device /dev/infiniband/uverbs1"


@pytest.fixture
def efa_software(instance: Instance) -> str:
    """EFA's software on the instance, as the Deep Learning AMI has it, and as Docker is to be told of it."""
    for folder in ("opt/amazon/efa/lib64", "opt/amazon/ofi-nccl/lib64", "usr/lib64/libibverbs", "etc/libibverbs.d"):
        instance.changes.joinpath(folder).mkdir(parents=True)
    for file in ("libibverbs.so.1", "libefa.so.1"):
        instance.changes.joinpath("usr/lib64", file).touch()
    folders = ("/opt/amazon/efa", "/opt/amazon/ofi-nccl", "/usr/lib64/libibverbs", "/etc/libibverbs.d")
    volumes = [f"--volume {folder}:{folder}:ro" for folder in folders]
    volumes += [
        f"--volume /usr/lib64/{file}:/opt/amazon/rdma-core/{file}:ro" for file in ("libibverbs.so.1", "libefa.so.1")
    ]
    path = "/opt/amazon/ofi-nccl/lib64:/opt/amazon/efa/lib64:/opt/amazon/rdma-core"
    return " ".join([*volumes, f"--env LD_LIBRARY_PATH={path}"])


LOOK_INTO_IMAGE = ["docker", "run", "--rm", "--entrypoint", "test", IMAGE, "-d", "/opt/amazon/efa"]


def test_hands_over_efa_devices(instance: Instance, adapters: str) -> None:
    """Each EFA device that the instance has goes into the container, whose image must know what to do with it."""
    instance.boot(user_data())

    assert instance.recorded()[6:] == [PULL, inspect(), run_call(efa=adapters), *WAIT_FOR_ITS_PART]


def test_hands_over_efa_software(instance: Instance, adapters: str, efa_software: str) -> None:
    """An image without EFA's software gets the AMI's, read-only, with rdma-core and in the loader's path."""
    # GIVEN an image in which the folder is not found
    instance.fail("docker", "run", times=1)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    assert booted.returncode == 0
    assert instance.recorded()[6:] == [
        PULL,
        inspect(),
        LOOK_INTO_IMAGE,
        run_call(efa=f"{adapters} {efa_software}"),
        *WAIT_FOR_ITS_PART,
    ]


@pytest.mark.usefixtures("efa_software")
def test_leaves_an_image_its_own_efa_software(instance: Instance, adapters: str) -> None:
    """Nothing is laid over what an image brings."""
    instance.boot(user_data())

    assert instance.recorded()[6:] == [PULL, inspect(), LOOK_INTO_IMAGE, run_call(efa=adapters), *WAIT_FOR_ITS_PART]


@pytest.mark.usefixtures("efa_software")
def test_hands_over_nothing_without_adapters(instance: Instance) -> None:
    """The AMI has the software on every instance type; only those with adapters use it."""
    instance.boot(user_data())

    assert instance.recorded()[6:] == [PULL, inspect(), run_call(), *WAIT_FOR_ITS_PART]


def test_any_user_can_write_the_ml_folder(instance: Instance) -> None:
    """The image's user, whoever it is, can write to the folder that the container gets as /opt/ml."""
    booted = instance.boot(
        user_data(), after="setpriv --reuid=1000 --clear-groups mkdir -p /opt/ml/input/data && echo can"
    )

    assert booted.stdout == "can\n"


def test_uses_the_volume_that_the_ami_mounted(instance: Instance) -> None:
    """The AMI's own service makes the instance store ready; it is waited for, and its volume used."""
    # GIVEN
    instance.changes.joinpath("units/dlami-nvme.service").touch()
    instance.changes.joinpath("opt/dlami/nvme").mkdir(parents=True)

    # WHEN
    booted = instance.boot(
        user_data(), before="mount -t tmpfs none /opt/dlami/nvme", after="stat --format=%a /opt/dlami/nvme/ml"
    )

    # THEN
    assert instance.recorded()[3] == ["systemctl", "start", "dlami-nvme.service"]
    assert instance.recorded()[-3] == run_call(ml_root="/opt/dlami/nvme/ml")
    assert booted.stdout == "1777\n"


@pytest.mark.usefixtures("disk")
def test_formats_and_mounts_a_bare_disk(instance: Instance) -> None:
    """On other AMIs the instance store's first disk becomes /opt/ml, for any user to write."""
    booted = instance.boot(user_data(), after="findmnt --noheadings --output FSTYPE /opt/ml; stat --format=%a /opt/ml")

    assert booted.stdout == "ext4\n1777\n"
    assert instance.recorded()[-3] == run_call()


@pytest.mark.usefixtures("disk")
def test_booting_again_keeps_the_disk(instance: Instance) -> None:
    """A disk that has a file system is mounted as it is, mounted or not before."""
    again = "touch /opt/ml/kept && /user-data && umount /opt/ml && /user-data && ls /opt/ml/kept"

    booted = instance.boot(user_data(), after=again)

    assert (booted.stdout, booted.returncode) == ("/opt/ml/kept\n", 0)


def test_tries_again_when_the_registry_is_busy(instance: Instance) -> None:
    """Two failed pulls cost two pauses, not the node."""
    # GIVEN
    instance.fail("docker", "pull", times=2)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    assert instance.recorded()[6:] == [
        PULL,
        ["sleep", "2"],
        PULL,
        ["sleep", "4"],
        PULL,
        inspect(),
        run_call(),
        *WAIT_FOR_ITS_PART,
    ]
    assert booted.stderr.splitlines() == [
        f"cdk-horovod: could not pull {IMAGE}; next try in 2 s",
        f"cdk-horovod: could not pull {IMAGE}; next try in 4 s",
        "cdk-horovod: node started",
    ]


@pytest.mark.parametrize(("word", "what"), [("pull", f"pull {IMAGE}"), ("login", f"log in to {REGISTRY}")])
def test_fails_when_the_registry_stays_away(instance: Instance, word: str, what: str) -> None:
    """After five tries the console says what failed, and nothing is started or shut down."""
    # GIVEN
    instance.fail("docker", word, times=9)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    pauses = [call for call in instance.recorded() if call[0] == "sleep"]
    assert pauses == [["sleep", "2"], ["sleep", "4"], ["sleep", "8"], ["sleep", "16"]]
    assert booted.returncode == 1
    assert booted.stderr.splitlines()[-1] == f"cdk-horovod: this node cannot start: could not {what} in 5 tries"
    assert [call for call in instance.recorded() if call[:2] == ["docker", "run"]] == []


def test_fails_when_docker_refuses(instance: Instance) -> None:
    """Docker's own words stand above ours: no GPU, no log group."""
    # GIVEN
    instance.fail("docker", "run", times=1)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    message = "cdk-horovod: this node cannot start: docker did not start the container\n"
    assert (booted.returncode, booted.stderr) == (1, message)


def test_names_the_step_that_failed(instance: Instance) -> None:
    """Whatever else fails is named with its line, its exit code and its command."""
    # GIVEN
    instance.fail("systemctl", "start", times=1)

    # WHEN
    booted = instance.boot(user_data())

    # THEN
    line = user_data().index("systemctl start docker.service") + 2  # counted from 1, after the shebang
    assert (booted.returncode, booted.stderr) == (
        1,
        f"cdk-horovod: this node cannot start: line {line} of user data ended with exit code 1: "
        "systemctl start docker.service\n",
    )
