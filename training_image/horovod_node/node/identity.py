"""This node's identity: its address, its GPUs, its fleet. Each engine has its own source of these facts."""

from __future__ import annotations

import fcntl
import re
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from horovod_node import contract
from horovod_node.node.boot_facts import BootFacts
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

_SIOCGIFADDR = 0x8915
"""Asks the kernel for an interface's IPv4 address (netdevice(7))."""


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """
    Facts about a node, for which each engine has its own source.

    Args:
        id: Name that is unique in the run: the instance id on EC2.
        address: IPv4 address at which the other nodes reach this one.
        interface: Network interface that holds *address*.
        gpus: Ranks that fit on this node.
        instance_type: EC2 instance type, for people and for the receipt.
        zone: Availability zone.
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


def identify(environment: Mapping[str, str], *, devices: Path = Path("/dev")) -> Node:
    """
    Determine this node's identity.

    Args:
        environment: The process's environment variables.
        devices: Folder of the device files; a GPU is a file `nvidia<number>` in it.

    Raises:
        UsageError: If a variable is missing or contradicts another one.
        OSError: If instance metadata does not answer.
    """
    engine = _required(environment, contract.ENV_ENGINE)
    adapter = _ADAPTERS.get(engine)
    if adapter is None:
        raise UsageError(f"'{contract.ENV_ENGINE}' must be one of {', '.join(_ADAPTERS)}, got '{engine}'")
    fleet = _required(environment, contract.ENV_FLEET)
    ledger_table = _required(environment, contract.ENV_LEDGER_TABLE)
    region = environment.get("AWS_REGION") or _required(environment, "AWS_DEFAULT_REGION")
    ml_root = Path(environment.get(contract.ENV_ML_ROOT) or contract.DEFAULT_ML_ROOT)
    if not ml_root.is_absolute():
        raise UsageError(f"'{contract.ENV_ML_ROOT}' must be an absolute path, got '{ml_root}'")
    facts = adapter(environment, devices)
    return Node(
        **asdict(facts),
        fleet=fleet,
        ledger_table=ledger_table,
        region=region,
        ml_root=ml_root,
        engine=engine,
        training=environment.get(contract.ENV_TRAINING, ""),
        log_group=environment.get(contract.ENV_LOG_GROUP, ""),
        boot=BootFacts.of(environment),
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


def _from_instance_metadata(environment: Mapping[str, str], devices: Path) -> NodeFacts:
    for name in _NODE_FACTS:
        if environment.get(name):
            raise UsageError(
                f"'{name}' is set, but engine '{contract.ENGINE_EC2}' asks instance metadata for it; unset it"
            )
    metadata = InstanceMetadata(environment.get(contract.ENV_METADATA_ENDPOINT) or DEFAULT_ENDPOINT)
    address = metadata.read("local-ipv4")
    gpus = sum(1 for device in devices.iterdir() if re.fullmatch(r"nvidia\d+", device.name))
    if not gpus:
        raise UsageError(f"no GPU: {devices} holds no nvidia0; start the container with --gpus all")
    return NodeFacts(
        id=metadata.read("instance-id"),
        address=address,
        interface=interface_of(address),
        gpus=gpus,
        instance_type=metadata.read("instance-type"),
        zone=metadata.read("placement/availability-zone"),
        # The other values, `scheduled` and `capacity-block`, are not interrupted like Spot Instances.
        market=contract.SPOT if metadata.read("instance-life-cycle") == contract.SPOT else contract.ON_DEMAND,
    )


def _from_environment(environment: Mapping[str, str], devices: Path) -> NodeFacts:  # noqa: ARG001 - one signature for all
    address = _required(environment, contract.ENV_NODE_ADDRESS)
    try:
        IPv4Address(address)
    except ValueError:
        raise UsageError(f"'{contract.ENV_NODE_ADDRESS}' must be an IPv4 address, got '{address}'") from None
    gpus = _required(environment, contract.ENV_NODE_GPUS)
    if not gpus.isascii() or not gpus.isdigit() or int(gpus) < 1:
        raise UsageError(f"'{contract.ENV_NODE_GPUS}' must be a whole number of at least 1, got '{gpus}'")
    market = _required(environment, contract.ENV_NODE_MARKET)
    if market not in contract.MARKETS:
        raise UsageError(f"'{contract.ENV_NODE_MARKET}' must be one of {', '.join(contract.MARKETS)}, got '{market}'")
    return NodeFacts(
        id=_required(environment, contract.ENV_NODE_ID),
        address=address,
        interface=_required(environment, contract.ENV_NODE_INTERFACE),
        gpus=int(gpus),
        instance_type=_required(environment, contract.ENV_NODE_TYPE),
        zone=_required(environment, contract.ENV_NODE_ZONE),
        market=market,
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise UsageError(f"'{name}' is not set; user data writes it into {contract.NODE_ENV_FILE}")
    return value


_ADAPTERS: dict[str, Callable[[Mapping[str, str], Path], NodeFacts]] = {
    contract.ENGINE_EC2: _from_instance_metadata,
    contract.ENGINE_LOCAL: _from_environment,
}
