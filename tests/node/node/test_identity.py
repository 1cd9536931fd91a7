"""Who a node is: from its environment, or from instance metadata over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from horovod_node import contract
from horovod_node.node.boot_facts import BootFacts
from horovod_node.node.errors import UsageError
from horovod_node.node.identity import Machine, Node, identify, interface_of
from support.node.emulated_aws import MetadataService

COMMON = {
    contract.ENV_LEDGER_TABLE: "ledger",
    contract.ENV_FLEET: "fleet",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
LOCAL = {
    **COMMON,
    contract.ENV_ENGINE: contract.ENGINE_LOCAL,
    contract.ENV_ML_ROOT: "/tmp/node/ml",
    contract.ENV_NODE_ID: "i-0",
    contract.ENV_NODE_ADDRESS: "127.0.1.1",
    contract.ENV_NODE_INTERFACE: "lo",
    contract.ENV_NODE_GPUS: "4",
    contract.ENV_NODE_TYPE: "g5.12xlarge",
    contract.ENV_NODE_ZONE: "eu-west-1a",
    contract.ENV_NODE_MARKET: contract.SPOT,
}
EC2 = {**COMMON, contract.ENV_ENGINE: contract.ENGINE_EC2}
SAGEMAKER = {
    **COMMON,
    contract.ENV_ENGINE: contract.ENGINE_SAGEMAKER,
    contract.ENV_NODE_MARKET: contract.SPOT,
    "TRAINING_JOB_NAME": "horovod-1",
}
RESOURCES = {
    "current_group_name": "homogeneousCluster",
    "current_host": "localhost",
    "current_instance_type": "ml.g5.12xlarge",
    "hosts": ["algo-1", "algo-10", "localhost"],
    "network_interface_name": "eth0",
}
METADATA = {
    "instance-id": "i-0123456789abcdef0",
    "instance-type": "g5.xlarge",
    "instance-life-cycle": "spot",
    "local-ipv4": "127.0.0.1",
    "placement/availability-zone": "eu-west-1b",
}


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with closing(MetadataService(METADATA)) as service:
        yield service


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """A /dev with two GPUs and the control devices beside them."""
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


def test_local_node_is_what_its_environment_says() -> None:
    """The local engine takes every fact from the environment."""
    assert identify(LOCAL) == Node(
        id="i-0",
        address="127.0.1.1",
        interface="lo",
        gpus=4,
        instance_type="g5.12xlarge",
        zone="eu-west-1a",
        market="spot",
        fleet="fleet",
        ledger_table="ledger",
        region="eu-west-1",
        ml_root=Path("/tmp/node/ml"),
        engine="local",
    )


def test_node_knows_its_boot() -> None:
    """Boot facts come from the environment of either engine; a text that is no time is left out."""
    # GIVEN
    environment = {
        contract.ENV_BOOTED_AT: "1700000000",
        contract.ENV_PULL_BEGAN_AT: "soon",
        contract.ENV_PULLED_AT: "nan",
        contract.ENV_IMAGE: "node@sha256:0123",
    }

    # WHEN
    node = identify(LOCAL | environment)

    # THEN
    assert node.boot == BootFacts(booted_at=1_700_000_000, image="node@sha256:0123")


def test_ec2_node_is_what_instance_metadata_says(metadata: MetadataService, devices: Path) -> None:
    """An EC2 node asks instance metadata, counts its GPU devices and finds the interface of its address."""
    # WHEN
    node = identify({**EC2, contract.ENV_METADATA_ENDPOINT: metadata.endpoint}, machine=Machine(devices=devices))
    # THEN
    assert node == Node(
        id="i-0123456789abcdef0",
        address="127.0.0.1",
        interface="lo",
        gpus=2,
        instance_type="g5.xlarge",
        zone="eu-west-1b",
        market="spot",
        fleet="fleet",
        ledger_table="ledger",
        region="eu-west-1",
        ml_root=Path(contract.DEFAULT_ML_ROOT),
        engine="ec2",
    )


def test_ecs_node_is_the_instance_of_its_task(metadata: MetadataService, devices: Path) -> None:
    """A task in the host's network asks instance metadata as on EC2."""
    # GIVEN
    environment = {
        **COMMON,
        contract.ENV_ENGINE: contract.ENGINE_ECS,
        contract.ENV_METADATA_ENDPOINT: metadata.endpoint,
        contract.ENV_BOOTED_AT: "1700000000",
    }
    # WHEN
    node = identify(environment, machine=Machine(devices=devices))
    # THEN
    assert node == Node(
        id="i-0123456789abcdef0",
        address="127.0.0.1",
        interface="lo",
        gpus=2,
        instance_type="g5.xlarge",
        zone="eu-west-1b",
        market="spot",
        fleet="fleet",
        ledger_table="ledger",
        region="eu-west-1",
        ml_root=Path(contract.DEFAULT_ML_ROOT),
        engine="ecs",
        boot=BootFacts(booted_at=1_700_000_000),
    )


def sagemaker(tmp_path: Path, devices: Path, **environment: str) -> Node:
    """Identify a container of a training job."""
    return identify(SAGEMAKER | environment, machine=Machine(devices=devices, opt_ml=tmp_path))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """What SageMaker tells a container."""
    file = tmp_path / "input" / "config" / "resourceconfig.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(RESOURCES))
    return file


@pytest.mark.usefixtures("job")
def test_sagemaker_node_is_what_its_job_says(tmp_path: Path, devices: Path) -> None:
    """The name gives the address, the address the interface; a container that is started again is another node."""
    # WHEN
    one, again = (sagemaker(tmp_path, devices) for _ in range(2))
    # THEN
    assert one == Node(
        id=one.id,
        address="127.0.0.1",
        interface="lo",
        gpus=2,
        instance_type="ml.g5.12xlarge",
        zone="",
        market="spot",
        fleet="fleet",
        ledger_table="ledger",
        region="eu-west-1",
        ml_root=Path("/tmp/cdk-horovod/ml"),
        engine="sagemaker",
        boot=BootFacts(container="horovod-1"),
    )
    assert re.fullmatch(r"localhost-[0-9a-f]{4}", one.id)
    assert one.id != again.id


def test_sagemaker_node_takes_the_interface_that_the_job_names_where_none_has_its_address(
    job: Path, tmp_path: Path, devices: Path
) -> None:
    """An address may be the second one of its interface."""
    # GIVEN
    job.write_text(json.dumps({**RESOURCES, "current_host": "127.0.0.2", "network_interface_name": "lo"}))
    # WHEN / THEN
    assert sagemaker(tmp_path, devices).interface == "lo"


@pytest.mark.usefixtures("job")
def test_emulated_job_has_the_gpus_that_it_is_given(tmp_path: Path) -> None:
    """A machine without GPU devices says how many ranks a container has."""
    assert sagemaker(tmp_path, tmp_path, **{contract.ENV_NODE_GPUS: "8"}).gpus == 8


@pytest.mark.usefixtures("job")
def test_fails_when_the_market_of_a_job_is_missing(tmp_path: Path, devices: Path) -> None:
    """Nothing else in a container tells it."""
    with pytest.raises(UsageError, match=f"^'{contract.ENV_NODE_MARKET}' is not set; "):
        sagemaker(tmp_path, devices, **{contract.ENV_NODE_MARKET: ""})


def test_fails_when_a_job_does_not_name_its_host(job: Path, tmp_path: Path, devices: Path) -> None:
    """The file is named, and what it must hold."""
    # GIVEN
    job.write_text("{}")
    # WHEN / THEN
    with pytest.raises(UsageError, match=f"^{job} must name current_host and current_instance_type: KeyError"):
        sagemaker(tmp_path, devices)


@pytest.mark.parametrize("life_cycle", ["on-demand", "scheduled", "capacity-block"])
def test_only_spot_is_spot(devices: Path, life_cycle: str) -> None:
    """Capacity that cannot be taken away counts as On-Demand, whatever it is called."""
    # GIVEN
    with closing(MetadataService({**METADATA, "instance-life-cycle": life_cycle})) as metadata:
        # WHEN
        node = identify({**EC2, contract.ENV_METADATA_ENDPOINT: metadata.endpoint}, machine=Machine(devices=devices))
    # THEN
    assert node.market == contract.ON_DEMAND


@pytest.mark.parametrize("name", [name for name in LOCAL if name != contract.ENV_ML_ROOT])
def test_fails_when_a_variable_is_missing(name: str) -> None:
    """Each variable that is needed is named when it is missing."""
    # GIVEN
    environment = {key: value for key, value in LOCAL.items() if key != name}
    # WHEN / THEN
    with pytest.raises(UsageError, match=rf"^'{name}' is not set; "):
        identify(environment)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (contract.ENV_ENGINE, "mainframe", "must be one of ec2, ecs, sagemaker, local, got 'mainframe'"),
        (contract.ENV_NODE_GPUS, "many", "must be a whole number of at least 1, got 'many'"),
        (contract.ENV_NODE_GPUS, "0", "must be a whole number of at least 1, got '0'"),
        (contract.ENV_NODE_GPUS, "²", "must be a whole number of at least 1, got '²'"),
        (contract.ENV_NODE_ADDRESS, "node-1", "must be an IPv4 address, got 'node-1'"),
        (contract.ENV_NODE_MARKET, "flea", "must be one of on-demand, spot, got 'flea'"),
        (contract.ENV_ML_ROOT, "ml", "must be an absolute path, got 'ml'"),
    ],
)
def test_fails_when_a_variable_makes_no_sense(name: str, value: str, message: str) -> None:
    """The error names the variable, the value and what it must be."""
    with pytest.raises(UsageError) as raised:
        identify({**LOCAL, name: value})
    assert str(raised.value) == f"'{name}' {message}"


def test_fails_when_engines_contradict_each_other(devices: Path) -> None:
    """A fact in the environment of an EC2 node would be passed over: it is refused instead."""
    with pytest.raises(UsageError, match=f"^'{contract.ENV_NODE_ID}' is set, but engine 'ec2' asks"):
        identify({**EC2, contract.ENV_NODE_ID: "i-1"}, machine=Machine(devices=devices))


def test_fails_when_an_ec2_node_has_no_gpu(metadata: MetadataService, tmp_path: Path) -> None:
    """A container without its GPUs is told so, before it joins a run."""
    with pytest.raises(UsageError, match="must be started with its GPUs"):
        identify({**EC2, contract.ENV_METADATA_ENDPOINT: metadata.endpoint}, machine=Machine(devices=tmp_path))


def test_fails_when_no_interface_holds_the_address() -> None:
    """A container with a network of its own does not hold the instance's address."""
    with pytest.raises(UsageError, match=r"no network interface holds 192\.0\.2\.1"):
        interface_of("192.0.2.1")
