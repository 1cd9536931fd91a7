"""CPUs, memory and GPUs of instance types."""

from __future__ import annotations

from typing import Final

from horovod_local.errors import LocalCloudError

_UNKNOWN_TO_MOTO: Final = {
    "p3.2xlarge": (8, 62_464, 1),
    "p3.8xlarge": (32, 249_856, 4),
    "p3.16xlarge": (64, 499_712, 8),
    "p3dn.24xlarge": (96, 786_432, 8),
}
"""Virtual CPUs, MiB of memory and GPUs (Amazon EC2 Instance Types, "Specifications for … accelerated computing")."""


def resources_of(instance_type: str) -> tuple[int, int, int]:
    """
    Return virtual CPUs, MiB of memory, and NVIDIA GPUs of *instance_type*.

    Raises:
        LocalCloudError: If the type is not known.
    """
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    if instance_type in _UNKNOWN_TO_MOTO:
        return _UNKNOWN_TO_MOTO[instance_type]
    found = INSTANCE_TYPES.get(instance_type)
    if found is None:
        raise LocalCloudError(f"the local cloud does not know the instance type {instance_type}")
    gpus = (found.get("GpuInfo") or {}).get("Gpus", ())
    return (
        int(found["VCpuInfo"]["DefaultVCpus"]),
        int(found["MemoryInfo"]["SizeInMiB"]),
        sum(int(gpu["Count"]) for gpu in gpus if gpu["Manufacturer"] == "NVIDIA"),
    )
