"""Elastic Fabric Adapters of a fleet: which types share a launch template, and the interfaces in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cdk_horovod.gpu_types import GpuInstanceType


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
