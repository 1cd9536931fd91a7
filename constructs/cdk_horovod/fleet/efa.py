"""Elastic Fabric Adapters of a fleet: checks of its types, network interfaces, and libfabric's environment."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from aws_cdk import Annotations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from constructs import Construct

    from cdk_horovod.fleet.gpu_types import GpuInstanceType

_MANY_ADAPTERS: Final = 4
"""Types with at least this many Elastic Fabric Adapters lose most of their bandwidth without them."""

EFA_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Without this, libfabric silently falls back to its TCP provider if an adapter cannot be opened
        # (fi_provider(7)).
        "FI_PROVIDER": "efa",
        # With huge pages, a fork (for example to load data) fails with "Cannot allocate memory" when too few are free
        # for the copy (AWS's EFA cheatsheet in awsome-distributed-training, which always sets this).
        "FI_EFA_USE_HUGE_PAGE": "0",
    }
)
"""
Environment of libfabric on nodes with Elastic Fabric Adapters.

These variables are deliberately not set, for the cheatsheet's reasons: `FI_EFA_USE_DEVICE_RDMA`, which libfabric
detects from 1.18 on, and which aborts processes on types without RDMA (G4dn, G5); `FI_EFA_FORK_SAFE`, unnecessary from
Linux 5.15 on; `RDMAV_FORK_SAFE`, harmful there; `NCCL_PROTO`, buffer sizes and channels, which the plugin sets. Horovod
sets `NCCL_SOCKET_IFNAME` on every rank to the interface of its node's address, so NCCL's own connections use neither
Docker's bridge nor the adapters, which have no address.
"""


def common_efa_interfaces(instance_types: Sequence[GpuInstanceType]) -> int:
    """
    Return the number of adapters that all *instance_types* have.

    Raises:
        ValueError: If a type has none, or their numbers differ: a launch template lists every network interface, so it
            fits only one number.
    """
    without = [row.name for row in instance_types if row.efa_interfaces == 0]
    if without:
        raise ValueError(
            f"'efa' must be off, or 'instance_types' must hold only types with Elastic Fabric Adapters, got "
            f"{', '.join(without)}, which have none"
        )
    by_count = {row.efa_interfaces: row.name for row in instance_types}
    if len(by_count) > 1:
        shown = ", ".join(f"{count} in {name}" for count, name in by_count.items())
        raise ValueError(
            "'efa' must be off, or 'instance_types' must have the same number of Elastic Fabric Adapters, got "
            f"{shown}; make one fleet for each number"
        )
    return instance_types[0].efa_interfaces


def network_interfaces(adapters: int, *, security_group_id: str) -> list[dict[str, Any]]:
    """
    List a launch template's network interfaces for instances with *adapters* Elastic Fabric Adapters.

    The layout is the one that AWS recommends for every accelerated type (EC2 User Guide, "Maximize network bandwidth
    on Amazon EC2 instances with multiple network cards"): an ordinary interface with the IP address and an EFA-only one
    on the first network card, and an EFA-only one on each further card.
    """
    places = [(0, 0, "interface"), (0, 1, "efa-only"), *((card, 0, "efa-only") for card in range(1, adapters))]
    return [
        {
            "NetworkCardIndex": card,
            "DeviceIndex": device,
            "InterfaceType": kind,
            "Groups": [security_group_id],
            # Otherwise EC2 keeps the interfaces of a launch template after the instance has terminated.
            "DeleteOnTermination": True,
        }
        for card, device, kind in places
    ]


def warn_of_unused_adapters(scope: Construct, instance_types: Sequence[GpuInstanceType]) -> None:
    """Add a warning to *scope* for types that lose most of their bandwidth without Elastic Fabric Adapters."""
    names = [row.name for row in instance_types if row.efa_interfaces >= _MANY_ADAPTERS]
    if names:
        Annotations.of(scope).add_warning_v2(
            "cdk-horovod:EfaUnused",
            f"{', '.join(names)} reach their network bandwidth only with Elastic Fabric Adapters; set 'efa'.",
        )
