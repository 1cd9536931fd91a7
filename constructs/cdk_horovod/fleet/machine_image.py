"""The machine image of the nodes: the newest, or one that stays the same at every deployment."""

from __future__ import annotations

import re
from typing import Final

import jsii
from aws_cdk import aws_ec2 as ec2
from constructs import Construct

DEEP_LEARNING_AMI: Final = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id"
)
"""
Systems Manager parameter with the newest AWS Deep Learning Base GPU AMI (Amazon Linux 2023): NVIDIA driver, container
toolkit, Docker and EFA installed. Source: AWS Deep Learning AMIs Developer Guide, "Finding a DLAMI ID".
"""
_AMI: Final = re.compile(r"ami-[0-9a-f]{8}([0-9a-f]{9})?")


@jsii.implements(ec2.IMachineImage)
class PinnedImage:
    """
    An AMI by its id, which is of one Region. CDK's own class needs to know the Region; a stack often does not.

    Args:
        ami_id: `ami-` and 8 or 17 hexadecimal digits.

    Raises:
        ValueError: If *ami_id* has another form.
    """

    def __init__(self, ami_id: str) -> None:
        if not _AMI.fullmatch(ami_id):
            raise ValueError(f"'machine_image' must be a machine image or an AMI's id, ami-…, got {ami_id!r}")
        self._ami_id = ami_id

    def get_image(self, scope: Construct) -> ec2.MachineImageConfig:  # noqa: ARG002 - of the interface
        """Give CDK the image; called by it."""
        return ec2.MachineImageConfig(
            image_id=self._ami_id, os_type=ec2.OperatingSystemType.LINUX, user_data=ec2.UserData.for_linux()
        )


def machine_image_of(given: ec2.IMachineImage | str | None) -> ec2.IMachineImage:
    """
    Give the image that was asked for.

    Args:
        given: An image, or an AMI's id. If none is given, the newest of `DEEP_LEARNING_AMI` serves.

    Raises:
        ValueError: If *given* is a text but no AMI's id.
    """
    if isinstance(given, str):
        return PinnedImage(given)
    return given or ec2.MachineImage.from_ssm_parameter(DEEP_LEARNING_AMI)
