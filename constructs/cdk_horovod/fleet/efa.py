"""Elastic Fabric Adapters of a fleet: which types share a launch template, and the interfaces in it."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aws_cdk import Annotations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

    from cdk_horovod.fleet.gpu_types import GpuInstanceType

_MANY_ADAPTERS: Final = 4
"""From this many Elastic Fabric Adapters on, most of an instance's bandwidth is lost without them."""

EFA_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        # This provider or none: an adapter that cannot be opened shall not end in libfabric's own TCP unnoticed
        # (fi_provider(7)).
        "FI_PROVIDER": "efa",
        # Scripts fork, to load data for example, which fails with "Cannot allocate memory" when there are too few huge
        # pages for a copy of libfabric's (AWS's EFA cheatsheet in awsome-distributed-training, which sets it always).
        "FI_EFA_USE_HUGE_PAGE": "0",
    }
)
"""
What libfabric is told on nodes with Elastic Fabric Adapters.

Left alone on purpose, with the cheatsheet's reasons: `FI_EFA_USE_DEVICE_RDMA`, which libfabric from 1.18 on finds out
by itself, and with which a process on a type without RDMA (G4dn, G5) is aborted; `FI_EFA_FORK_SAFE`, needless from
Linux 5.15 on; `RDMAV_FORK_SAFE`, harmful there; `NCCL_PROTO`, buffer sizes and channels, which the plugin sets itself.
`NCCL_SOCKET_IFNAME` is Horovod's: every rank gets the interface of its node's address, so NCCL's own connections use
neither Docker's bridge nor the adapters, which have no address.
"""


def common_efa_interfaces(instance_types: Sequence[GpuInstanceType]) -> int:
    """
    Count the adapters that each of *instance_types* has.

    Raises:
        ValueError: If a type has none, or another number than the next: a launch template lists its network
            interfaces one by one, so it fits one number only.
    """
    without = [row.name for row in instance_types if row.efa_interfaces == 0]
    if without:
        raise ValueError(
            f"'efa' must be off, or 'instance_types' hold only types with Elastic Fabric Adapters, got "
            f"{', '.join(without)}, which have none"
        )
    by_count = {row.efa_interfaces: row.name for row in instance_types}
    if len(by_count) > 1:
        shown = ", ".join(f"{count} in {name}" for count, name in by_count.items())
        raise ValueError(
            f"'efa' must be off, or 'instance_types' have one number of Elastic Fabric Adapters, got {shown}; "
            "make a fleet of each"
        )
    return instance_types[0].efa_interfaces


def network_interfaces(adapters: int, *, security_group_id: str) -> list[dict[str, Any]]:
    """
    List a launch template's network interfaces for instances with *adapters* Elastic Fabric Adapters.

    The layout is the one that AWS recommends for every accelerated type (EC2 User Guide, "Maximize network bandwidth
    on Amazon EC2 instances with multiple network cards"): an ordinary interface with the address, an EFA-only one
    beside it, and an EFA-only one on each further network card.
    """
    places = [(0, 0, "interface"), (0, 1, "efa-only"), *((card, 0, "efa-only") for card in range(1, adapters))]
    return [
        {
            "NetworkCardIndex": card,
            "DeviceIndex": device,
            "InterfaceType": kind,
            "Groups": [security_group_id],
            # What a launch template creates, EC2 keeps after the instance is gone unless told.
            "DeleteOnTermination": True,
        }
        for card, device, kind in places
    ]


def warn_of_unused_adapters(scope: Construct, instance_types: Sequence[GpuInstanceType]) -> None:
    """Warn at *scope* of types that lose most of their bandwidth in a fleet without Elastic Fabric Adapters."""
    names = [row.name for row in instance_types if row.efa_interfaces >= _MANY_ADAPTERS]
    if names:
        Annotations.of(scope).add_warning_v2(
            "cdk-horovod:EfaUnused",
            f"{', '.join(names)} reach their network bandwidth only with Elastic Fabric Adapters; set 'efa'.",
        )
