"""
The GPU instance types that a fleet can use, with their properties.

Sources: EC2's `DescribeInstanceTypes` in us-east-1 as recorded in moto 5.2.5 (2026), which a test compares with every
row; for P3, which that Region no longer offers, the table of the AWS Batch User Guide, "Run GPU jobs" (2026); NVIDIA's
table "CUDA GPU Compute Capability".
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """
    A GPU model. Cards of the same name with different memory are different models, because a batch may fit only one.

    Args:
        name: NVIDIA's name, as EC2 spells it.
        memory_mib: Usable memory of one GPU according to EC2, in MiB.
        compute_capability: CUDA compute capability, as in `HOROVOD_BUILD_CUDA_CC_LIST`: 75 is 7.5.
    """

    name: str
    memory_mib: int
    compute_capability: int

    def __str__(self) -> str:
        """Return the model as text: `A100 (40 GiB)`."""
        return f"{self.name} ({self.memory_mib / 1024:.0f} GiB)"


@dataclass(frozen=True, kw_only=True)
class GpuInstanceType:
    """
    One EC2 instance type.

    Args:
        name: Its name, such as `g5.12xlarge`.
        gpu: Model of its GPUs.
        gpus: Number of GPUs, which is also its weight in a fleet.
        vcpus: Number of virtual CPUs.
        memory_gib: Main memory, in GiB.
        network_gbps: Network bandwidth of all its network cards together, in Gbit/s.
        network_bursts: Whether the bandwidth is a burst bandwidth ("Up to").
        efa_interfaces: Most Elastic Fabric Adapters, the n-th on network card n; 0 if none.
        nvme_gb: Local NVMe storage, in GB; 0 if none.
        deep_learning_ami: Whether current Deep Learning AMIs have a driver for its GPUs.
    """

    name: str
    gpu: Gpu
    gpus: int
    vcpus: int
    memory_gib: int
    network_gbps: int
    network_bursts: bool = False
    efa_interfaces: int = 0
    nvme_gb: int = 0
    deep_learning_ami: bool = True


_T4: Final = Gpu(name="T4", memory_mib=16_384, compute_capability=75)
_V100: Final = Gpu(name="V100", memory_mib=16_384, compute_capability=70)
_V100_32: Final = Gpu(name="V100", memory_mib=32_768, compute_capability=70)
_A10G: Final = Gpu(name="A10G", memory_mib=22_888, compute_capability=86)
_L4: Final = Gpu(name="L4", memory_mib=22_888, compute_capability=89)
_L40S: Final = Gpu(name="L40S", memory_mib=45_776, compute_capability=89)
_A100: Final = Gpu(name="A100", memory_mib=40_960, compute_capability=80)
_A100_80: Final = Gpu(name="A100", memory_mib=81_920, compute_capability=80)
_H100: Final = Gpu(name="H100", memory_mib=81_920, compute_capability=90)
_H200: Final = Gpu(name="H200", memory_mib=144_384, compute_capability=90)


def _type(
    name: str,
    gpu: Gpu,
    gpus: int,
    vcpus: int,
    memory_gib: int,
    network: str,
    *,
    nvme: int = 0,
    efa: int = 0,
    dlami: bool = True,
) -> GpuInstanceType:
    """Make a row from the columns of AWS's tables; *network* is "25" or "up to 25" Gbit/s."""
    return GpuInstanceType(
        name=name,
        gpu=gpu,
        gpus=gpus,
        vcpus=vcpus,
        memory_gib=memory_gib,
        network_gbps=int(network.removeprefix("up to ")),
        network_bursts=network.startswith("up to "),
        efa_interfaces=efa,
        nvme_gb=nvme,
        deep_learning_ami=dlami,
    )


GPU_INSTANCE_TYPES: Final[Mapping[str, GpuInstanceType]] = MappingProxyType(
    {
        row.name: row
        for row in (
            #     name, GPU, GPUs, vCPUs, memory GiB, network Gbit/s, NVMe GB, EFA interfaces
            _type("g4dn.xlarge", _T4, 1, 4, 16, "up to 25", nvme=125),
            _type("g4dn.2xlarge", _T4, 1, 8, 32, "up to 25", nvme=225),
            _type("g4dn.4xlarge", _T4, 1, 16, 64, "up to 25", nvme=225),
            _type("g4dn.8xlarge", _T4, 1, 32, 128, "50", nvme=900, efa=1),
            _type("g4dn.12xlarge", _T4, 4, 48, 192, "50", nvme=900, efa=1),
            _type("g4dn.16xlarge", _T4, 1, 64, 256, "50", nvme=900, efa=1),
            _type("g4dn.metal", _T4, 8, 96, 384, "100", nvme=1800, efa=1),
            _type("g5.xlarge", _A10G, 1, 4, 16, "up to 10", nvme=250),
            _type("g5.2xlarge", _A10G, 1, 8, 32, "up to 10", nvme=450),
            _type("g5.4xlarge", _A10G, 1, 16, 64, "up to 25", nvme=600),
            _type("g5.8xlarge", _A10G, 1, 32, 128, "25", nvme=900, efa=1),
            _type("g5.12xlarge", _A10G, 4, 48, 192, "40", nvme=3800, efa=1),
            _type("g5.16xlarge", _A10G, 1, 64, 256, "25", nvme=1900, efa=1),
            _type("g5.24xlarge", _A10G, 4, 96, 384, "50", nvme=3800, efa=1),
            _type("g5.48xlarge", _A10G, 8, 192, 768, "100", nvme=7600, efa=1),
            _type("g6.xlarge", _L4, 1, 4, 16, "up to 10", nvme=250),
            _type("g6.2xlarge", _L4, 1, 8, 32, "up to 10", nvme=450),
            _type("g6.4xlarge", _L4, 1, 16, 64, "up to 25", nvme=600),
            _type("g6.8xlarge", _L4, 1, 32, 128, "25", nvme=900, efa=1),
            _type("g6.12xlarge", _L4, 4, 48, 192, "40", nvme=3760, efa=1),
            _type("g6.16xlarge", _L4, 1, 64, 256, "25", nvme=1880, efa=1),
            _type("g6.24xlarge", _L4, 4, 96, 384, "50", nvme=3760, efa=1),
            _type("g6.48xlarge", _L4, 8, 192, 768, "100", nvme=7520, efa=1),
            _type("gr6.4xlarge", _L4, 1, 16, 128, "up to 25", nvme=600),
            _type("gr6.8xlarge", _L4, 1, 32, 256, "25", nvme=900, efa=1),
            _type("g6e.xlarge", _L40S, 1, 4, 32, "up to 20", nvme=250),
            _type("g6e.2xlarge", _L40S, 1, 8, 64, "up to 20", nvme=450),
            _type("g6e.4xlarge", _L40S, 1, 16, 128, "20", nvme=600),
            _type("g6e.8xlarge", _L40S, 1, 32, 256, "25", nvme=900, efa=1),
            _type("g6e.12xlarge", _L40S, 4, 48, 384, "100", nvme=3800, efa=1),
            _type("g6e.16xlarge", _L40S, 1, 64, 512, "35", nvme=1900, efa=1),
            _type("g6e.24xlarge", _L40S, 4, 96, 768, "200", nvme=3800, efa=2),
            _type("g6e.48xlarge", _L40S, 8, 192, 1536, "400", nvme=7600, efa=4),
            _type("p3.2xlarge", _V100, 1, 8, 61, "up to 10", dlami=False),
            _type("p3.8xlarge", _V100, 4, 32, 244, "10", dlami=False),
            _type("p3.16xlarge", _V100, 8, 64, 488, "25", dlami=False),
            _type("p3dn.24xlarge", _V100_32, 8, 96, 768, "100", nvme=1800, efa=1, dlami=False),
            _type("p4d.24xlarge", _A100, 8, 96, 1152, "400", nvme=8000, efa=4),
            _type("p4de.24xlarge", _A100_80, 8, 96, 1152, "400", nvme=8000, efa=4),
            _type("p5.4xlarge", _H100, 1, 16, 256, "100", nvme=3800, efa=1),
            _type("p5.48xlarge", _H100, 8, 192, 2048, "3200", nvme=30_400, efa=32),
            _type("p5e.48xlarge", _H200, 8, 192, 2048, "3200", nvme=30_400, efa=32),
            _type("p5en.48xlarge", _H200, 8, 192, 2048, "3200", nvme=30_400, efa=16),
        )
    }
)
"""Every type that a fleet can use, by name."""

HOPPER: Final = 90
"""Compute capability of H100 and H200, the first on which code for older GPUs does not run."""

TURING: Final = 75
"""
Compute capability of T4, the lowest that CUDA 13 supports, with which PyTorch is built.

Source: CUDA Toolkit 13.0 Release Notes: offline compilation for Maxwell, Pascal and Volta has been removed.
"""

FIRST_TENSORFLOW_FOR_HOPPER: Final = (2, 17)
"""
First release of TensorFlow whose wheels are known to have code for Hopper.

Older wheels have code for at most 8.0 (`TF_CUDA_COMPUTE_CAPABILITIES` in TensorFlow's .bazelrc:
"sm_50,sm_60,sm_70,sm_75,compute_80", then "sm_60,sm_70,sm_80,sm_89,compute_90"). GPUs of 8.6 and 8.9 run it unchanged.
On Hopper the driver compiles every kernel at its first use, which "could take 30 minutes or longer" (TensorFlow's own
warning), and does so on every node, because its disk is new.
"""

_BLACKWELL: Final = "its Blackwell GPUs need CUDA 12.8, and TensorFlow 2.15 and 2.18 are built with older releases"

REFUSED_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "g4ad": "its GPUs are AMD's, and the training image is built for NVIDIA's CUDA",
        "g5g": "its processors are Arm, and the training image is built for x86-64",
        "g6f": "it has a part of a GPU, and a rank needs a whole one",
        "gr6f": "it has a part of a GPU, and a rank needs a whole one",
        "g7": _BLACKWELL,
        "g7e": _BLACKWELL,
        "p6-b200": _BLACKWELL,
        "p6-b300": _BLACKWELL,
    }
)
"""
Families with unsupported GPUs, and why they are not supported.

Source for Blackwell: NVIDIA's Blackwell Compatibility Guide, section 1.4.
"""


_OTHER_FAMILY: Final = r"(?!(g|gr|p)\d)[a-z]+-?\d[a-z0-9-]*\.[a-z0-9-]+"
"""Pattern of an instance type without GPUs, such as `m5.large`; families with GPUs are G, Gr and P."""


def gpu_instance_type(name: str) -> GpuInstanceType:
    """
    Return the instance type *name*.

    Raises:
        ValueError: If the type is unknown, has no GPU, or has unsupported GPUs; the message says which.
    """
    if name in GPU_INSTANCE_TYPES:
        return GPU_INSTANCE_TYPES[name]
    family = name.partition(".")[0]
    if family in REFUSED_FAMILIES:
        raise ValueError(f"'instance_types' must not hold '{name}': {REFUSED_FAMILIES[family]}")
    families = ", ".join(dict.fromkeys(known.partition(".")[0] for known in GPU_INSTANCE_TYPES))
    if re.fullmatch(_OTHER_FAMILY, name):
        raise ValueError(f"'instance_types' must hold types with GPUs, those of {families}, got '{name}'")
    near = difflib.get_close_matches(name, GPU_INSTANCE_TYPES, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"supported families are {families}"
    raise ValueError(f"'instance_types' must hold GPU types of EC2, got '{name}'; {hint}")
