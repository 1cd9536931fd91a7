"""This node's identity: its address, its GPUs, its fleet. Each engine has its own source of these facts."""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

from horovod_node import contract
from horovod_node.node.boot_facts import BootFacts
from horovod_node.node.ecs_task import task_facts
from horovod_node.node.errors import UsageError
from horovod_node.node.instance_metadata import DEFAULT_ENDPOINT, InstanceMetadata

_NODE_FACTS = (
    contract.ENV_NODE_ID,
    contract.ENV_NODE_ADDRESS,
    contract.ENV_NODE_INTERFACE,
    contract.ENV_NODE_GPUS,
    contract.ENV_NODE_TYPE,
    contract.ENV_NODE_ZONE,
    contract.ENV_NODE_MARKET,
)

_JOB_NAME = "TRAINING_JOB_NAME"
"""Set by SageMaker in the containers of a job, and by `aws/sagemaker-training-toolkit` read as `job_name`."""
_SIOCGIFADDR = 0x8915
"""Asks the kernel for an interface's IPv4 address (netdevice(7))."""
_NAME_SECONDS = 900.0
"""
How long a host of a SageMaker job may wait for its own name to resolve; its guide asks for retries without a time, and
aws/sagemaker-training-toolkit (`environment.py`) takes as long.
"""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """
    Facts about a node, for which each engine has its own source.

    Args:
        id: Name that is unique in the run: the instance id on EC2 and ECS.
        address: IPv4 address at which the other nodes reach this one.
        interface: Network interface that holds *address*.
        gpus: Ranks that fit on this node.
        instance_type: EC2's or SageMaker's instance type, for people and for the receipt.
        zone: Availability zone; empty on SageMaker, which does not tell it.
        market: One of the contract's `MARKETS`.
    """

    id: str
    address: str
    interface: str
    gpus: int
    instance_type: str
    zone: str
    market: str


@dataclass(frozen=True, kw_only=True)
class Node(NodeFacts):
    """
    This node: its facts, and the training that it belongs to.

    Args:
        fleet: Name of the node's fleet.
        ledger_table: Name of the ledger's DynamoDB table.
        region: AWS region of the ledger and the buckets.
        ml_root: Folder of the SageMaker layout.
        engine: What provides the node, one of the contract's `ENGINES`.
        training: Name of the training, which is a dimension of its metrics. Default: no metrics are sent.
        log_group: CloudWatch log group for logs and metrics. Default: none are sent.
        boot: Facts about the machine's boot. Default: unknown.
    """

    fleet: str
    ledger_table: str
    region: str
    ml_root: Path
    engine: str
    training: str = ""
    log_group: str = ""
    boot: BootFacts = field(default_factory=BootFacts)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """
    Where a node looks for its facts.

    Args:
        devices: Folder of the device files; a GPU is a file `nvidia<number>` in it. Default: `/dev`.
        opt_ml: Folder in which SageMaker describes its job. Default: `/opt/ml`.
    """

    devices: Path = Path("/dev")
    opt_ml: Path = Path(contract.DEFAULT_ML_ROOT)


def identify(environment: Mapping[str, str], *, machine: Machine | None = None) -> Node:
    """
    Determine this node's identity.

    Args:
        environment: The process's environment variables.
        machine: Where to look for facts. Default: where they are on AWS.

    Raises:
        UsageError: If a variable is missing or contradicts another one.
        OSError: If the engine's source of facts does not answer.
    """
    name = _required(environment, contract.ENV_ENGINE)
    engine = _ENGINES.get(name)
    if engine is None:
        raise UsageError(f"'{contract.ENV_ENGINE}' must be one of {', '.join(_ENGINES)}, got '{name}'")
    fleet = _required(environment, contract.ENV_FLEET)
    ledger_table = _required(environment, contract.ENV_LEDGER_TABLE)
    region = environment.get("AWS_REGION") or _required(environment, "AWS_DEFAULT_REGION")
    ml_root = Path(environment.get(contract.ENV_ML_ROOT) or engine.ml_root)
    if not ml_root.is_absolute():
        raise UsageError(f"'{contract.ENV_ML_ROOT}' must be an absolute path, got '{ml_root}'")
    return Node(
        **asdict(engine.facts(environment, machine or Machine())),
        fleet=fleet,
        ledger_table=ledger_table,
        region=region,
        ml_root=ml_root,
        engine=name,
        training=environment.get(contract.ENV_TRAINING, ""),
        log_group=environment.get(contract.ENV_LOG_GROUP, ""),
        boot=engine.boot(environment),
    )


def interface_of(address: str) -> str:
    """
    Return the name of the network interface whose first address is *address*.

    Raises:
        UsageError: If this machine has no such interface.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise UsageError(f"no network interface holds {address}, the address of this node; use the host's network")


def _from_instance(environment: Mapping[str, str], machine: Machine) -> NodeFacts:
    for name in _NODE_FACTS:
        if environment.get(name):
            raise UsageError(
                f"'{name}' is set, but engine '{contract.ENGINE_EC2}' asks instance metadata for it; unset it"
            )
    return _from_instance_metadata(environment, machine)


def _from_instance_metadata(environment: Mapping[str, str], machine: Machine) -> NodeFacts:
    metadata = InstanceMetadata(environment.get(contract.ENV_METADATA_ENDPOINT) or DEFAULT_ENDPOINT)
    gpus = _gpus(environment, machine)
    try:
        address = metadata.read("local-ipv4")
        return NodeFacts(
            id=metadata.read("instance-id"),
            address=address,
            interface=environment.get(contract.ENV_NODE_INTERFACE) or interface_of(address),
            gpus=gpus,
            instance_type=metadata.read("instance-type"),
            zone=metadata.read("placement/availability-zone"),
            # The other values, `scheduled` and `capacity-block`, are not interrupted like Spot Instances.
            market=contract.SPOT if metadata.read("instance-life-cycle") == contract.SPOT else contract.ON_DEMAND,
        )
    except OSError as error:
        raise OSError(f"instance metadata does not answer: {error}") from error


def _from_training_job(environment: Mapping[str, str], machine: Machine) -> NodeFacts:
    """
    Read what SageMaker tells a host of a training job.

    Source: Amazon SageMaker developer guide, "How Amazon SageMaker Provides Training Information", which also says that
    a host's address must come from its name, and that names may resolve late.
    """
    file = machine.opt_ml / "input" / "config" / "resourceconfig.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        host, instance_type = config["current_host"], config["current_instance_type"]
    except (ValueError, KeyError) as error:
        raise UsageError(f"{file} must name current_host and current_instance_type: {error!r}") from error
    address = _address_of(host)
    return NodeFacts(
        # A container that SageMaker starts again must be another node: as the same one it would lead an attempt whose
        # task tokens are spent.
        id=f"{host}-{secrets.token_hex(2)}",
        address=address,
        # A job's containers may have a second interface, which NCCL would take.
        interface=_interface_or(config.get("network_interface_name", ""), address=address),
        gpus=_gpus(environment, machine),
        instance_type=instance_type,
        zone="",
        market=_market(environment),
    )


def _address_of(host: str) -> str:
    give_up_at = time.monotonic() + _NAME_SECONDS
    while True:
        try:
            return socket.gethostbyname(host)
        except OSError as error:
            if time.monotonic() > give_up_at:
                raise OSError(f"the name of this host, '{host}', has no address: {error}") from error
        time.sleep(1)


def _interface_or(default: str, *, address: str) -> str:
    try:
        return interface_of(address)
    except UsageError:
        if not default:
            raise
        return default


def _gpus(environment: Mapping[str, str], machine: Machine) -> int:
    if environment.get(contract.ENV_NODE_GPUS):
        return _named_gpus(environment)
    gpus = sum(1 for device in machine.devices.iterdir() if re.fullmatch(r"nvidia\d+", device.name))
    if not gpus:
        raise UsageError(f"no GPU: {machine.devices} holds no nvidia0; the container must be started with its GPUs")
    return gpus


def _from_environment(environment: Mapping[str, str], machine: Machine) -> NodeFacts:  # noqa: ARG001 - one signature for all
    address = _required(environment, contract.ENV_NODE_ADDRESS)
    try:
        IPv4Address(address)
    except ValueError:
        raise UsageError(f"'{contract.ENV_NODE_ADDRESS}' must be an IPv4 address, got '{address}'") from None
    return NodeFacts(
        id=_required(environment, contract.ENV_NODE_ID),
        address=address,
        interface=_required(environment, contract.ENV_NODE_INTERFACE),
        gpus=_named_gpus(environment),
        instance_type=_required(environment, contract.ENV_NODE_TYPE),
        zone=_required(environment, contract.ENV_NODE_ZONE),
        market=_market(environment),
    )


def _named_gpus(environment: Mapping[str, str]) -> int:
    gpus = _required(environment, contract.ENV_NODE_GPUS)
    if not gpus.isascii() or not gpus.isdigit() or int(gpus) < 1:
        raise UsageError(f"'{contract.ENV_NODE_GPUS}' must be a whole number of at least 1, got '{gpus}'")
    return int(gpus)


def _market(environment: Mapping[str, str]) -> str:
    market = _required(environment, contract.ENV_NODE_MARKET)
    if market not in contract.MARKETS:
        raise UsageError(f"'{contract.ENV_NODE_MARKET}' must be one of {', '.join(contract.MARKETS)}, got '{market}'")
    return market


def _of_training_job(environment: Mapping[str, str]) -> BootFacts:
    return replace(BootFacts.of(environment), container=environment.get(_JOB_NAME, ""))


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UsageError(f"'{name}' is not set; it comes from {contract.NODE_ENV_FILE} or the job's Environment")
    return value


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """Where an engine's nodes find their facts and, by default, put their files."""

    facts: Callable[[Mapping[str, str], Machine], NodeFacts]
    boot: Callable[[Mapping[str, str]], BootFacts] = BootFacts.of
    ml_root: str = contract.DEFAULT_ML_ROOT


_ENGINES: dict[str, _Engine] = {
    contract.ENGINE_EC2: _Engine(facts=_from_instance),
    contract.ENGINE_ECS: _Engine(facts=_from_instance_metadata, boot=task_facts),
    contract.ENGINE_SAGEMAKER: _Engine(
        facts=_from_training_job, boot=_of_training_job, ml_root=contract.SAGEMAKER_ML_ROOT
    ),
    contract.ENGINE_LOCAL: _Engine(facts=_from_environment),
}
