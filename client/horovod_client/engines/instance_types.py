"""GPUs of the instance types that a run can use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from horovod_client.errors import InvalidInput

_SIZES: Final[Mapping[str, Mapping[int, str]]] = {
    "g4dn": {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge", 8: "metal"},
    "g5": {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    "g6": {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    "gr6": {1: "4xlarge 8xlarge"},
    "g6e": {1: "xlarge 2xlarge 4xlarge 8xlarge 16xlarge", 4: "12xlarge 24xlarge", 8: "48xlarge"},
    "p3": {1: "2xlarge", 4: "8xlarge", 8: "16xlarge"},
    "p3dn": {8: "24xlarge"},
    "p4d": {8: "24xlarge"},
    "p4de": {8: "24xlarge"},
    "p5": {1: "4xlarge", 8: "48xlarge"},
    "p5e": {8: "48xlarge"},
    "p5en": {8: "48xlarge"},
}
"""
Sizes by family and number of GPUs.

A test compares them with the constructs' table (`cdk_horovod.fleet.gpu_types`), which the client does not load.
"""

GPUS: Final[Mapping[str, int]] = {
    f"{family}.{size}": gpus
    for family, by_gpus in _SIZES.items()
    for gpus, sizes in by_gpus.items()
    for size in sizes.split()
}
"""Number of GPUs by EC2's name of the type."""


def gpus_of(instance_type: str) -> int:
    """
    Return the number of GPUs of a type.

    Args:
        instance_type: EC2's name, such as `g5.12xlarge`.

    Raises:
        InvalidInput: If runs cannot use the type.
    """
    if instance_type in GPUS:
        return GPUS[instance_type]
    near = difflib.get_close_matches(instance_type, GPUS, n=1) or ["g5.12xlarge"]
    raise InvalidInput(f"'--type' must be a GPU type of EC2 that runs can use, such as {near[0]}, got {instance_type}")
