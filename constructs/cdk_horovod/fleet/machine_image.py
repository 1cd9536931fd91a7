"""The machine image of the nodes: the newest at each deployment, or a pinned one."""

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
    An AMI with a fixed id. CDK's own class would need the Region, which many stacks do not know at synthesis.

    Args:
        ami_id: Id of the AMI: `ami-` and 8 or 17 hexadecimal digits.

    Raises:
        ValueError: If *ami_id* has another form.
    """

    def __init__(self, ami_id: str) -> None:
        if not _AMI.fullmatch(ami_id):
            raise ValueError(f"'machine_image' must be a machine image or an AMI's id, ami-…, got {ami_id!r}")
        self._ami_id = ami_id

    def get_image(self, scope: Construct) -> ec2.MachineImageConfig:  # noqa: ARG002 - of the interface
        """Return the image; CDK calls this."""
        return ec2.MachineImageConfig(
            image_id=self._ami_id, os_type=ec2.OperatingSystemType.LINUX, user_data=ec2.UserData.for_linux()
        )


def machine_image_of(given: ec2.IMachineImage | str | None) -> ec2.IMachineImage:
    """
    Return the machine image of a fleet.

    Args:
        given: A machine image, or the id of an AMI. Default: the newest AMI of `DEEP_LEARNING_AMI`.

    Raises:
        ValueError: If *given* is a text but not the id of an AMI.
    """
    if isinstance(given, str):
        return PinnedImage(given)
    return given or ec2.MachineImage.from_ssm_parameter(DEEP_LEARNING_AMI)
