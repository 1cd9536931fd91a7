"""Machines of a fleet, of which the ledger knows nothing before they speak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from horovod_client.aws.error_codes import DENIED, code_of

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient

ALIVE: Final = ("Pending", "InService")
"""Life cycle states, and beginnings of such, of an instance that is there or will be."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    A machine that the fleet's Auto Scaling group has started.

    Args:
        id: Its id.
        instance_type: Such as `g5.xlarge`.
        zone: Such as `eu-west-1a`.
        gpus: Its GPUs.
    """

    id: str
    instance_type: str
    zone: str
    gpus: int


def find_instances(
    autoscaling: AutoScalingClient, *, group: str, gpus_of: Mapping[str, int]
) -> tuple[Instance, ...] | None:
    """
    List the machines of a fleet; None for a user who may not ask.

    Args:
        autoscaling: Client of the fleet's region.
        group: Name of its Auto Scaling group.
        gpus_of: GPUs of each of its instance types.
    """
    try:
        groups = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
    except autoscaling.exceptions.ClientError as error:
        if code_of(error) not in DENIED:
            raise
        return None
    return tuple(
        Instance(
            id=instance["InstanceId"],
            instance_type=instance.get("InstanceType", ""),
            zone=instance["AvailabilityZone"],
            gpus=gpus_of.get(instance.get("InstanceType", ""), int(instance.get("WeightedCapacity", 0))),
        )
        for found in groups
        for instance in found.get("Instances", [])
        if instance["LifecycleState"].startswith(ALIVE)
    )
