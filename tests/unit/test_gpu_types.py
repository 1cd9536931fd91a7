"""The table of GPU instance types."""

from __future__ import annotations

import gzip
import json
import re
from importlib.resources import files
from typing import Any

import pytest

from cdk_horovod.fleet.gpu_types import GPU_INSTANCE_TYPES, REFUSED_FAMILIES, GpuInstanceType, gpu_instance_type

NOT_OFFERED_IN_US_EAST_1 = {"p3.2xlarge", "p3.8xlarge", "p3.16xlarge"}


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    """Read EC2's own answer to DescribeInstanceTypes, as moto recorded it: the types with NVIDIA or AMD GPUs."""
    packed = files("moto.ec2").joinpath("resources/instance_types.json.gz").read_bytes()
    types = json.loads(gzip.decompress(packed))
    return {name: facts for name, facts in types.items() if "GpuInfo" in facts}


def row_of(facts: dict[str, Any]) -> dict[str, Any]:
    """Pick from EC2's answer what the table holds."""
    (gpus,) = facts["GpuInfo"]["Gpus"]
    network = facts["NetworkInfo"]
    # "Up to 25 Gigabit", "50 Gigabit", "4x 100 Gigabit"
    found = re.fullmatch(r"(Up to )?(?:(\d+)x )?(\d+) Gigabit", network["NetworkPerformance"])
    assert found is not None
    return {
        "name": facts["InstanceType"],
        "gpu": (gpus["Name"], gpus["MemoryInfo"]["SizeInMiB"]),
        "gpus": gpus["Count"],
        "vcpus": facts["VCpuInfo"]["DefaultVCpus"],
        "memory_gib": facts["MemoryInfo"]["SizeInMiB"] / 1024,
        "network_gbps": int(found[2] or 1) * int(found[3]),
        "network_bursts": found[1] is not None,
        "efa_interfaces": network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0),
        "nvme_gb": facts.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0),
    }


def shown(row: GpuInstanceType) -> dict[str, Any]:
    return {
        "name": row.name,
        "gpu": (row.gpu.name, row.gpu.memory_mib),
        "gpus": row.gpus,
        "vcpus": row.vcpus,
        "memory_gib": row.memory_gib,
        "network_gbps": row.network_gbps,
        "network_bursts": row.network_bursts,
        "efa_interfaces": row.efa_interfaces,
        "nvme_gb": row.nvme_gb,
    }


@pytest.mark.parametrize("name", sorted(GPU_INSTANCE_TYPES.keys() - NOT_OFFERED_IN_US_EAST_1))
def test_row_says_what_ec2_says(recorded: dict[str, dict[str, Any]], name: str) -> None:
    """Every row agrees with EC2's own description of the type."""
    assert shown(GPU_INSTANCE_TYPES[name]) == row_of(recorded[name])


def test_no_type_is_forgotten(recorded: dict[str, dict[str, Any]]) -> None:
    """Every type with GPUs is in the table, or of a family that is refused with a reason."""
    assert {
        name for name in recorded if name not in GPU_INSTANCE_TYPES and name.partition(".")[0] not in REFUSED_FAMILIES
    } == set()


def test_adapters_can_be_efa_only(recorded: dict[str, dict[str, Any]]) -> None:
    """Network card n takes the n-th adapter, as the launch template assumes."""
    for row in GPU_INSTANCE_TYPES.values():
        if row.efa_interfaces:
            cards = recorded[row.name]["NetworkInfo"]["NetworkCards"]
            kinds = {card["NetworkCardIndex"]: card["InterfaceTypes"] for card in cards}
            assert all("efa-only" in kinds[card] for card in range(row.efa_interfaces)), row.name


def test_weights_divide_one_another() -> None:
    """Any selection of types has weights that are multiples of its smallest, so no fleet needs a check for it."""
    assert {row.gpus for row in GPU_INSTANCE_TYPES.values()} == {1, 4, 8}


def test_only_p3_lacks_a_driver() -> None:
    """Current Deep Learning AMIs have a driver for everything but P3."""
    without = {row.name for row in GPU_INSTANCE_TYPES.values() if not row.deep_learning_ami}
    assert without == {*NOT_OFFERED_IN_US_EAST_1, "p3dn.24xlarge"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("g5.13xlarge", r"got 'g5.13xlarge'; did you mean .*g5.12xlarge.*\?"),
        ("banana", r"'instance_types' must hold GPU types of EC2, got 'banana'; supported families are g4dn, g5, "),
        ("m5.large", r"'instance_types' must hold types with GPUs, those of g4dn, .*, got 'm5.large'"),
        ("u-6tb1.metal", r"must hold types with GPUs, .*, got 'u-6tb1.metal'"),
        ("g5g.xlarge", r"'instance_types' must not hold 'g5g.xlarge': its processors are Arm"),
        ("g6f.xlarge", r"'g6f.xlarge': it has a part of a GPU"),
        ("g4ad.xlarge", r"'g4ad.xlarge': its GPUs are AMD's"),
        ("p6-b200.48xlarge", r"'p6-b200.48xlarge': its Blackwell GPUs need CUDA 12.8"),
    ],
)
def test_fails_when_a_type_cannot_serve(name: str, message: str) -> None:
    """The error says why, and what the user may have meant."""
    with pytest.raises(ValueError, match=message):
        gpu_instance_type(name)


def test_gpu_is_shown_with_its_memory() -> None:
    """Cards of one name are told apart by their memory."""
    assert str(gpu_instance_type("p4d.24xlarge").gpu) == "A100 (40 GiB)"
    assert str(gpu_instance_type("p4de.24xlarge").gpu) == "A100 (80 GiB)"
