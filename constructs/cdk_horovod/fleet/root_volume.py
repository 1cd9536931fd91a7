"""The root volume of each node."""

from __future__ import annotations

from typing import Final

from aws_cdk import Size
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_kms as kms

_GP3_IOPS: Final = 3000
"""I/O operations per second that are included in every gp3 volume."""


def refuse_throughput(throughput: int) -> None:
    """Raise `ValueError` if a gp3 volume does not support *throughput*, in MiB/s."""
    if not 125 <= throughput <= 1000:
        raise ValueError(f"'volume_throughput' must be from 125 to 1000 MiB/s, got {throughput}")


def root_volume(device_name: str, *, size: Size, throughput: int, encryption_key: kms.IKey | None) -> ec2.BlockDevice:
    """
    Return an encrypted gp3 root volume that is deleted with its instance.

    Args:
        device_name: Device name of the image's root volume.
        size: Size of the volume.
        throughput: Throughput in MiB/s. Above 750 the volume also gets the four I/O operations per second for each
            MiB/s that Amazon EBS requires (Amazon EBS User Guide, "General Purpose SSD volumes").
        encryption_key: KMS key. Default: the account's `aws/ebs` key.
    """
    iops = 4 * throughput
    return ec2.BlockDevice(
        device_name=device_name,
        volume=ec2.BlockDeviceVolume.ebs(
            size.to_gibibytes(),
            volume_type=ec2.EbsDeviceVolumeType.GP3,
            throughput=throughput,
            iops=iops if iops > _GP3_IOPS else None,
            encrypted=True,
            kms_key=encryption_key,
            delete_on_termination=True,
        ),
    )
