"""The machine image of the nodes: the newest at each deployment, or a pinned one."""

from __future__ import annotations

import re
from typing import Final

import jsii
from aws_cdk import IStableStringProducer, Lazy
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


@jsii.implements(ec2.IMachineImage, IStableStringProducer)
class ChosenImage:
    """
    The machine image of a fleet whose user named none: the fleet's engine chooses it, after the fleet was created.

    A fleet that no engine uses gets `DEEP_LEARNING_AMI`.
    """

    def __init__(self) -> None:
        self._scope: Construct | None = None
        self._id: str | None = None

    def choose(self, image: ec2.IMachineImage) -> None:
        """Make *image* the fleet's; a fleet has one engine, so this is called once."""
        assert self._scope is not None, "the fleet's launch template asks for its image when the fleet is created"
        self._id = image.get_image(self._scope).image_id

    def get_image(self, scope: Construct) -> ec2.MachineImageConfig:
        """Return the image, whose id is not known yet; CDK calls this."""
        self._scope = scope
        return ec2.MachineImageConfig(
            image_id=Lazy.string(self), os_type=ec2.OperatingSystemType.LINUX, user_data=ec2.UserData.for_linux()
        )

    def produce(self) -> str:
        """Return the id; CDK calls this when it resolves the template for the first time."""
        if self._id is None:
            self.choose(ec2.MachineImage.from_ssm_parameter(DEEP_LEARNING_AMI))
        assert self._id is not None
        return self._id
