"""Instances of a fleet's Auto Scaling group, which may not have written to the ledger yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from horovod_client.aws.error_codes import DENIED, code_of

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient

ALIVE: Final = ("Pending", "InService")
"""Lifecycle states, or their prefixes, of instances that are or will be in service."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    An instance of the fleet's Auto Scaling group.

    Args:
        id: Instance id.
        instance_type: Instance type, such as `g5.xlarge`.
        zone: Availability Zone, such as `eu-west-1a`.
        gpus: Number of GPUs.
    """

    id: str
    instance_type: str
    zone: str
    gpus: int


def find_instances(
    autoscaling: AutoScalingClient, *, group: str, gpus_of: Mapping[str, int]
) -> tuple[Instance, ...] | None:
    """
    List the instances of a fleet; None if the credentials lack the permission.

    Args:
        autoscaling: Client of the fleet's Region.
        group: Name of its Auto Scaling group.
        gpus_of: GPUs of each instance type.
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
